"""Real Triton with the tensors of NeMo's TensorRT-LLM deployable, over transformers on a CPU.

It stands where deploy_triton.py stands and takes the same options. Real are Triton, its protocol and the checkpoint's
architecture; TensorRT-LLM is not: it cannot run without a GPU, so the model's own class generates instead. The
directory of the engine is emptied first, as the exporter does.

Source: NeMo r2.0.0rc1, nemo/export/tensorrt_llm.py, for names, types and shapes of the tensors.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from megatron_gpt_eval import say
from transformers import AutoModelForCausalLM, AutoTokenizer
from triton_cpu import serve, spoken, texts_of

LENGTH = "max_output_len"
INPUTS = (
    ("prompts", bytes),
    ("top_k", np.int_),
    ("top_p", np.single),
    ("temperature", np.single),
    ("random_seed", np.int_),
    ("stop_words_list", bytes),
    ("bad_words_list", bytes),
    ("no_repeat_ngram_size", np.single),
    ("task_id", bytes),
    ("lora_uids", bytes),
)
CLASSES = {"gptnext": "NemotronForCausalLM", "llama": "LlamaForCausalLM"}


def options(words: list[str], more: tuple[str, ...]) -> argparse.Namespace:
    """Those of the script that a NeMo checkpoint needs."""
    parser = argparse.ArgumentParser(prog="deploy_triton.py")
    parser.add_argument("-nc", "--nemo_checkpoint", required=True)
    parser.add_argument("-mt", "--model_type", required=True, choices=sorted(CLASSES))
    parser.add_argument("-tmn", "--triton_model_name", required=True)
    parser.add_argument("-trp", "--triton_port", type=int, default=8000)
    parser.add_argument("-tha", "--triton_http_address", default="0.0.0.0")
    parser.add_argument("-tmr", "--triton_model_repository")
    parser.add_argument("-ng", "--num_gpus", type=int, default=1)
    parser.add_argument("-tps", "--tensor_parallelism_size", type=int, default=1)
    parser.add_argument("-dt", "--dtype", choices=("bfloat16", "float16", "fp8", "int8"), default="bfloat16")
    parser.add_argument("-mil", "--max_input_len", type=int, default=256)
    parser.add_argument("-mol", "--max_output_len", type=int, default=256)
    parser.add_argument("-mbs", "--max_batch_size", type=int, default=8)
    for name in more:
        parser.add_argument(name)
    return parser.parse_args(words)


def main(length: str = LENGTH, more: tuple[str, ...] = ()) -> None:
    """Export (here: load), then serve. `length` is the tensor that bounds the answer, `more` further options."""
    given = options(sys.argv[1:], more)
    if not Path(given.nemo_checkpoint).exists():
        raise FileNotFoundError(f"Can't find {given.nemo_checkpoint}")
    if given.triton_model_repository:
        shutil.rmtree(given.triton_model_repository, ignore_errors=True)
        Path(given.triton_model_repository).mkdir(parents=True)
    say(f"Export {given.nemo_checkpoint} as {given.model_type}")
    tokenizer = AutoTokenizer.from_pretrained(given.nemo_checkpoint)
    model = AutoModelForCausalLM.from_pretrained(given.nemo_checkpoint, dtype=torch.float32)
    if type(model).__name__ != CLASSES[given.model_type]:
        raise ValueError(f"model type {given.model_type} does not match the checkpoint: {type(model).__name__}")

    def answer(inputs: dict[str, np.ndarray]) -> dict[str, list[str]]:
        found = []
        for prompt in texts_of(inputs["prompts"]):
            ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids
            if ids.shape[1] > given.max_input_len:
                raise ValueError(f"Input length ({ids.shape[1]}) exceeds max_input_len ({given.max_input_len})")
            tokens = min(int(spoken(inputs, length, given.max_output_len)), given.max_output_len)
            made = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens)
            found.append(tokenizer.decode(made[0][ids.shape[1] :], skip_special_tokens=False))
        return {"outputs": found}

    serve(
        answer,
        name=given.triton_model_name,
        inputs=(*INPUTS, (length, np.int_)),
        outputs=("outputs",),
        address=given.triton_http_address,
        port=given.triton_port,
        most=given.max_batch_size,
    )


if __name__ == "__main__":
    main()
