"""NeMo 1.23's own MegatronServer over real megatron-core, where megatron_gpt_eval.py stands; gloo and CPUs.

It takes the same overrides, one process per rank, and ends with the same words when the layout is wrong. The routes,
the checks of a request and the lock are NeMo's, unchanged; below them its sampling is replaced by megatron-core's
engine, which knows no repetition penalty and no least number of tokens.

Source: nemo_toolkit 1.23.0, nemo/collections/nlp/modules/common/text_generation_server.py, run from the package;
examples/nlp/language_modeling/megatron_gpt_eval.py for the order of the start-up.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import site
import sys
import types
from pathlib import Path
from typing import Any

import torch
from megatron_cpu import Generator, up_to
from megatron_gpt_eval import ASTERISKS, Overrides, say

COMMON = "nemo.collections.nlp.modules.common"
GENERATE = 0  # what rank 0 broadcasts before a generation


def take_part(generator: Generator) -> None:
    """A rank that does not serve: join each generation that rank 0 announces, until it is gone."""
    while True:
        choice = torch.zeros(1, dtype=torch.long)
        torch.distributed.broadcast(choice, 0)
        if choice[0].item() == GENERATE:
            generator.follow()


def generate(
    generator: Generator,
    inputs: list[str],
    tokens_to_generate: int = 0,
    _all_probs: bool = False,
    temperature: float = 1.0,
    add_BOS: bool = False,
    top_k: int = 0,
    top_p: float = 0.0,
    greedy: bool = False,
    _repetition_penalty: float = 1.0,
    *,
    end_strings: list[str],
    compute_logprob: bool = False,
    random_seed: int | None = None,
    **_: Any,
) -> dict[str, Any]:
    """NeMo's `generate`, with its arguments and its answer: every sentence is prompt and continuation."""
    begin = generator.tokenizer.detokenize([generator.tokenizer.bos]) if add_BOS else ""
    prompts = [begin + sentence for sentence in inputs]
    answer = generator.generate(
        prompts,
        tokens=tokens_to_generate,
        top_k=1 if greedy else int(top_k),
        top_p=0.0 if greedy else float(top_p),
        temperature=temperature,
        logprobs=compute_logprob,
        random_seed=-1 if random_seed is None else random_seed,
    )
    texts = [up_to(text, len(prompt), end_strings) for text, prompt in zip(answer["text"], prompts, strict=True)]
    lengths = [[0, *map(len, segments)] for segments in answer["segments"]]
    return {
        "sentences": texts,
        "tokens": answer["segments"],
        "logprob": answer.get("logprobs"),
        "full_logprob": None,
        "token_ids": answer["tokens"],
        "offsets": [[sum(row[: place + 1]) for place in range(len(row) - 1)] for row in lengths],
    }


def nemo_server() -> Any:
    """NeMo's server module as it was released; the three modules it imports would need the whole of NeMo."""

    def module(name: str, **members: Any) -> None:
        made = types.ModuleType(name)
        made.__dict__.update(members, __path__=[])
        sys.modules[name] = made

    parts = COMMON.split(".")
    for length in range(1, len(parts) + 1):
        module(".".join(parts[:length]))
    module("nemo.utils", logging=logging)
    module(f"{COMMON}.text_generation_utils", generate=generate)
    strategies = {
        name: type(name, (), {}) for name in ("RetroModelTextGenerationStrategy", "RetroQAModelTextGenerationStrategy")
    }
    module(f"{COMMON}.retro_inference_strategies", **strategies)
    name = f"{COMMON}.text_generation_server"
    places = (Path(folder) / (name.replace(".", "/") + ".py") for folder in site.getsitepackages())
    file = next(filter(Path.exists, places))
    specification = importlib.util.spec_from_file_location(name, file)
    server = importlib.util.module_from_spec(specification)  # type: ignore[arg-type]
    specification.loader.exec_module(server)  # type: ignore[union-attr]
    return server


def main() -> None:
    """Start-up in the original's order: check, join, load, warm up, serve."""
    overrides = Overrides(sys.argv[1:])
    devices = overrides.integer("trainer.devices", 1) * overrides.integer("trainer.num_nodes", 1)
    tensor = overrides.integer("tensor_model_parallel_size", 1)
    pipeline = overrides.integer("pipeline_model_parallel_size", 1)
    if devices != tensor * pipeline or devices != int(os.environ.get("SLURM_NTASKS", "1")):
        raise AssertionError(
            "devices * num_nodes should equal tensor_model_parallel_size * pipeline_model_parallel_size"
        )
    logging.basicConfig(level=logging.INFO)
    generator = Generator(overrides.values.get("gpt_model_file", ""), tensor, pipeline)
    if generator.rank:
        generator.follow()
        take_part(generator)
    warm_up = generate(generator, ["hello"], 1, greedy=True, end_strings=[])
    say(f"{ASTERISKS}\n{warm_up['sentences']}\n{ASTERISKS}")
    if overrides.values.get("server") == "True":
        nemo_server().MegatronServer(generator).run("0.0.0.0", port=overrides.integer("port", 5555))


if __name__ == "__main__":
    main()
