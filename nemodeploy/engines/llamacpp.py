"""llama.cpp's llama-server: one process, with or without GPUs. Source: llama.cpp b4000 and later, tools/server."""

from __future__ import annotations

from nemodeploy.core.planning import Rules
from nemodeploy.core.spec import Option, Spec
from nemodeploy.engines.base import Phase, not_cut, one_node
from nemodeploy.engines.openai import OpenAi


class LlamaCpp(OpenAi):
    """The demo's engine; it reads GGUF files."""

    name = "llamacpp"
    template = "engines/llamacpp.sh.j2"
    program = ("llama-server",)
    most_batch = 4
    options = (
        Option(
            name="special",
            default=False,
            about="show special tokens in answers, for a stop string that is one and that llama.cpp does not end at",
        ),
    )
    reserve_gib = 1.0
    cuts_evenly = False
    joined_pattern = "llama|main:"
    phases = (
        Phase(name="loading", pattern="load_model|loading model"),
        Phase(name="listening", pattern="server is listening|HTTP server"),
    )

    def rules(self, spec: Spec) -> Rules:
        """It spreads whole layers over the GPUs of one machine."""
        cut = not_cut(spec, "tensor", "llama-server spreads whole layers, it does not cut them")
        return (*one_node(spec, "one process holds the whole model"), *cut)

    def tasks_per_node(self, spec: Spec) -> int:
        """One."""
        return 1

    def arguments(self, spec: Spec, model_path: str, bind: str) -> tuple[str, ...]:
        """The context is shared by all slots, so it is length times batch."""
        words = (
            f"--model={model_path}",
            f"--alias={spec.model.name}",
            f"--host={bind}",
            f"--ctx-size={spec.serving.max_length * spec.serving.max_batch}",
            f"--parallel={spec.serving.max_batch}",
            f"--n-gpu-layers={999 if spec.gpus_per_node else 0}",
        )
        return (*words, "--special") if spec.options["special"] else words
