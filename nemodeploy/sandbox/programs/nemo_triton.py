"""Real Triton with the tensors of NeMo's in-framework deployable, over real megatron-core; gloo and CPUs.

It stands where deploy_inframework_triton.py stands and takes the same options, one process per GPU. Real are Triton,
its Python back end, its protocol and megatron-core's tensor parallelism; NeMo's own deployable class is not, for the
release that has it needs the whole of NeMo and transformer-engine.

Source: NeMo r2.0.0rc1, nemo/deploy/nlp/megatronllm_deployable.py, for names, types and shapes of the tensors.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

import numpy as np
import torch
from megatron_cpu import Generator, up_to
from nemo_generate import take_part
from triton_cpu import serve, texts_of

INPUTS = (
    ("prompts", bytes),
    ("use_greedy", np.bool_),
    ("temperature", np.single),
    ("top_k", np.int_),
    ("top_p", np.single),
    ("repetition_penalty", np.single),
    ("add_BOS", np.bool_),
    ("all_probs", np.bool_),
    ("compute_logprob", np.bool_),
    ("end_strings", bytes),
    ("min_length", np.int_),
    ("max_length", np.int_),
)
END_STRINGS = ["<|endoftext|>", "<extra_id_1>"]


def options(words: list[str]) -> argparse.Namespace:
    """The script's eight options."""
    parser = argparse.ArgumentParser(prog="deploy_inframework_triton.py")
    parser.add_argument("-nc", "--nemo_checkpoint", required=True)
    parser.add_argument("-tmn", "--triton_model_name", required=True)
    parser.add_argument("-tmv", "--triton_model_version", type=int, default=1)
    parser.add_argument("-trp", "--triton_port", type=int, default=8000)
    parser.add_argument("-tha", "--triton_http_address", default="0.0.0.0")
    parser.add_argument("-ng", "--num_gpus", type=int, default=1)
    parser.add_argument("-mbs", "--max_batch_size", type=int, default=8)
    parser.add_argument("-dm", "--debug_mode", action="store_true")
    return parser.parse_args(words)


def infer(generator: Generator, inputs: dict[str, np.ndarray]) -> list[str]:
    """Prompt and continuation of each row; settings count from the first row only, as in the original."""
    first = {name: value[0][0] for name, value in inputs.items() if name != "prompts"}
    begin = generator.tokenizer.detokenize([generator.tokenizer.bos]) if first.get("add_BOS", True) else ""
    prompts = [begin + prompt for prompt in texts_of(inputs["prompts"])]
    greedy = bool(first.get("use_greedy", True))
    torch.distributed.broadcast(torch.zeros(1, dtype=torch.long), 0)
    answer = generator.generate(
        prompts,
        tokens=int(first.get("max_length", 30)),
        top_k=1 if greedy else int(first.get("top_k", 0)),
        top_p=0.0 if greedy else float(first.get("top_p", 1.0)),
        temperature=float(first.get("temperature", 1.0)),
    )
    ends = texts_of(inputs["end_strings"][:1], every=True) if "end_strings" in inputs else END_STRINGS
    return [up_to(text, len(prompt), ends) for text, prompt in zip(answer["text"], prompts, strict=True)]


def main() -> None:
    """Rank 0 serves, the others take part."""
    given = options(sys.argv[1:])
    if int(os.environ.get("SLURM_NTASKS", "1")) != given.num_gpus:
        raise RuntimeError(f"You set --num_gpus={given.num_gpus}, which does not match the number of tasks")
    generator = Generator(given.nemo_checkpoint, given.num_gpus, 1)
    if generator.rank:
        take_part(generator)

    def answer(inputs: dict[str, np.ndarray]) -> dict[str, Any]:
        return {"sentences": infer(generator, inputs)}

    serve(
        answer,
        name=given.triton_model_name,
        inputs=INPUTS,
        outputs=("sentences",),
        address=given.triton_http_address,
        port=given.triton_port,
        most=given.max_batch_size,
    )


if __name__ == "__main__":
    main()
