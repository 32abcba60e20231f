"""Which program stands for which engine: a stand-in that needs the sandbox only, or the engine's own software."""

from collections.abc import Mapping

EVERY = "stand_in.py"
# Those that have a file of their own; llama.cpp's is its own server, since the sandbox has that at hand.
OWN: Mapping[str, str] = {"nemo-eval": "megatron_gpt_eval.py", "llamacpp": "llama_server.py"}
# llama.cpp reads one model only, the tiny one, and is its own server in either kind of sandbox.
ITSELF = ("llamacpp",)
# The engine's own software, by the pack that holds it.
REAL: Mapping[str, Mapping[str, str]] = {
    "nemo": {
        "nemo-eval": "nemo_generate.py",
        "nemo-triton": "nemo_triton.py",
        "nemo-hf-triton": "nemo_hf_triton.py",
        "nemo-trtllm": "nemo_trtllm.py",
        "nemo-trtllm-early": "nemo_trtllm_early.py",
        "transformers": "transformers_serve.py",
    },
    "vllm": {"vllm": "vllm_serve.py"},
}
# What each pack is, and its size in GB with a CPU build of torch: those of nemodeploy's own environment, and the rest.
ALWAYS: Mapping[str, tuple[str, float]] = {"llamacpp": ("llama.cpp's server, a part of nemodeploy[sandbox]", 0.1)}
WEIGHTY: Mapping[str, tuple[str, float]] = {
    "nemo": ("NeMo 1.23's server over megatron-core, Triton, NeMo Export-Deploy, transformers", 1.6),
    "vllm": ("vLLM, a CPU build", 2.5),
}
# The tiny checkpoint of each model's architecture, by the directory that checkpoints.py writes.
CHECKPOINTS: Mapping[str, str] = {
    "nemotron-4-340b-instruct": "nemotron",
    "nemotron-4-340b-base": "nemotron",
    "nemotron-3-8b-chat-4k-rlhf": "nemotron",
    "llama-3.1-nemotron-70b-instruct": "llama-3.1",
    "llama-3.1-nemotron-51b-instruct": "nemotron-nas",
    "tiny": "tiny",
}
GGUF = "tiny.gguf"


def words(python: str, directory: str, engine: str) -> tuple[str, ...]:
    """The words that start an engine's stand-in."""
    if engine in OWN:
        return (python, f"{directory}/{OWN[engine]}")
    return (python, f"{directory}/{EVERY}", engine)
