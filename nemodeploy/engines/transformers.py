"""`transformers serve`: one process, the layers spread over the GPUs of one node.

Source: transformers 5.23.0. It knows no served name: requests must name the path it was started with.
"""

from __future__ import annotations

from nemodeploy.core.planning import Rules
from nemodeploy.core.spec import Spec
from nemodeploy.engines.base import Phase, not_cut, one_node
from nemodeploy.engines.openai import OpenAi

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


class Transformers(OpenAi):
    """The library of the 51B card, as a server."""

    name = "transformers"
    template = "engines/transformers.sh.j2"
    program = ("transformers", "serve")
    reserve_gib = 4.0
    cuts_evenly = False
    joined_pattern = "Started server process"
    progress_pattern = r"Loading [a-z ]+: +([0-9]{1,3})%"
    phases = (
        Phase(name="loading", pattern="Loading weights|Loading checkpoint shards"),
        Phase(name="listening", pattern="Uvicorn running on"),
    )

    def rules(self, spec: Spec) -> Rules:
        """It has no tensor parallelism; whole layers go to the GPUs in turn."""
        cut = not_cut(spec, "tensor", "transformers serve spreads whole layers, it does not cut them")
        return (*one_node(spec, "one process holds the whole model"), *cut)

    def tasks_per_node(self, spec: Spec) -> int:
        """One."""
        return 1

    def served_name(self, spec: Spec, model_path: str) -> str:
        """The path."""
        return model_path

    def arguments(self, spec: Spec, model_path: str, bind: str) -> tuple[str, ...]:
        """The model is named, so that it is loaded before the port opens, and not at the first request."""
        words = [model_path, f"--host={bind}", "--device=auto", f"--dtype={DTYPES.get(spec.precision, 'auto')}"]
        return (*words, "--trust-remote-code") if spec.model.trust_remote_code else tuple(words)
