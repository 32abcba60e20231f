"""vLLM: one process a node; several nodes by its own multiprocessing (`--nnodes`), without Ray.

Source: vllm/config/parallel.py and PR 23691 (nnodes, node_rank, master_addr, headless), in releases from 0.12.
"""

from __future__ import annotations

from nemodeploy.core.planning import Rules
from nemodeploy.core.spec import Option, Spec
from nemodeploy.engines.base import Phase, shared_kv_heads
from nemodeploy.engines.openai import OpenAi

ACTIVATIONS_GIB = 2.0
DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "fp8": "auto"}


class Vllm(OpenAi):
    """The engine of the 51B model."""

    name = "vllm"
    template = "engines/vllm.sh.j2"
    program = ("vllm", "serve")
    most_batch = 256
    options = (
        Option(name="gpu_memory_utilization", default=0.9, about="share of a GPU's memory that vLLM may take"),
        Option(name="enforce_eager", default=False, about="no CUDA graphs: slower, less memory"),
    )
    joined_pattern = "world_size="
    phases = (
        Phase(name="joining", pattern="world_size="),
        Phase(name="loading", pattern="Starting to load model|Loading safetensors"),
        Phase(name="warming_up", pattern="GPU KV cache size|Capturing CUDA graph"),
        Phase(name="listening", pattern="Starting vLLM API server|Application startup complete"),
    )

    def rules(self, spec: Spec) -> Rules:
        """It repeats KV heads where there are fewer than GPUs, evenly."""
        return shared_kv_heads(spec)

    def usable_gib(self, spec: Spec) -> float:
        """Its own share of the memory, less what a forward pass takes."""
        return spec.gpu.memory_gib * spec.options["gpu_memory_utilization"] - ACTIVATIONS_GIB

    def tasks_per_node(self, spec: Spec) -> int:
        """One; it starts a worker for each GPU itself."""
        return 1

    def arguments(self, spec: Spec, model_path: str, bind: str) -> tuple[str, ...]:
        """Several nodes are added by the template, which knows them."""
        words = [
            model_path,
            f"--served-model-name={spec.model.name}",
            f"--host={bind}",
            f"--tensor-parallel-size={spec.layout.tensor_parallel}",
            f"--pipeline-parallel-size={spec.layout.pipeline_parallel}",
            f"--dtype={DTYPES[spec.precision]}",
            f"--max-model-len={spec.serving.max_length}",
            f"--max-num-seqs={spec.serving.max_batch}",
            f"--gpu-memory-utilization={spec.options['gpu_memory_utilization']:g}",
        ]
        if spec.options["enforce_eager"]:
            words.append("--enforce-eager")
        if spec.model.trust_remote_code:
            words.append("--trust-remote-code")
        return tuple(words)
