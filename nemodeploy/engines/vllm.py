"""vLLM: one process a node; several nodes by its own multiprocessing (`--nnodes`), without Ray.

Source: vllm/config/parallel.py and PR 23691 (nnodes, node_rank, master_addr, headless), in releases from 0.12.
"""

from __future__ import annotations

from nemodeploy.core.diagnosis import Cause
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
    progress_pattern = r"Loading .*shards: +([0-9]{1,3})%"
    phases = (
        Phase(name="joining", pattern="world_size="),
        Phase(name="loading", pattern="Starting to load model|Loading safetensors"),
        Phase(name="warming_up", pattern="GPU KV cache size|Capturing CUDA graph"),
        Phase(name="listening", pattern="Starting vLLM API server|Application startup complete"),
    )

    causes = (
        Cause(
            key="kv-cache",
            pattern=r"No available memory for the cache blocks|larger than the maximum number of tokens .* KV cache",
            meaning="the GPUs hold the weights, and too little is left for the KV cache",
            advice="a smaller serving.max_length, a larger gpu_memory_utilization, or more GPUs",
        ),
        Cause(
            key="gpu-occupied",
            pattern=r"Free memory on device .* (is )?less than desired",
            meaning="something else holds memory of the GPU",
            advice="whole nodes (--set slurm.exclusive=true), or a smaller gpu_memory_utilization",
        ),
        Cause(
            key="architecture",
            pattern=r"[Mm]odel architectures? .* (is|are) not supported",
            meaning="this release of the engine does not know the model",
            advice="a newer image: images: in the cluster file",
        ),
        Cause(
            key="gpu-count",
            pattern=r"larger than the number of available GPUs|No available node types can fulfill",
            meaning="it sees fewer GPUs than the layout needs",
            advice="check gpus: in the cluster file; nemodeploy plan shows the layout",
        ),
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
