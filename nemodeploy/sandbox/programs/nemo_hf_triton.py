"""NeMo Export-Deploy's own HuggingFaceLLMDeploy behind its own DeployPyTriton, on CPUs and gloo.

It stands where deploy_inframework_hf_triton.py stands and takes the same options, one process per GPU, told apart by
RANK and WORLD_SIZE. The two classes are those of the package; answered for them is what they ask of CUDA.

Source: nemo-export-deploy 0.4.0, run from the package; its scripts/deploy/nlp for the options.
"""

from __future__ import annotations

import argparse
import os
import sys

import torch
import torch.distributed
from megatron_cpu import tensors_on_cpu


def options(words: list[str]) -> argparse.Namespace:
    """The script's own."""
    parser = argparse.ArgumentParser(prog="deploy_inframework_hf_triton.py")
    parser.add_argument("-hp", "--hf_model_id_path", required=True)
    parser.add_argument("-t", "--task", choices=("text-generation",), default="text-generation")
    maps = ("auto", "balanced", "balanced_low_0", "sequential")
    parser.add_argument("-dvm", "--device_map", nargs="?", choices=maps, default="auto")
    types = ("auto", "bfloat16", "float16", "float32")
    parser.add_argument("-td", "--torch_dtype", nargs="?", choices=types, default="auto")
    parser.add_argument("-tpp", "--tp_plan", nargs="?", choices=("auto",))
    parser.add_argument("-trc", "--trust_remote_code", action="store_true")
    parser.add_argument("-tmn", "--triton_model_name", required=True)
    parser.add_argument("-tmv", "--triton_model_version", type=int, default=1)
    parser.add_argument("-trp", "--triton_port", type=int, default=8000)
    parser.add_argument("-tha", "--triton_http_address", default="0.0.0.0")
    parser.add_argument("-mbs", "--max_batch_size", type=int, default=8)
    parser.add_argument("-dm", "--debug_mode", action="store_true")
    return parser.parse_args(words)


def main() -> None:
    """Rank 0 serves, the others take part."""
    given = options(sys.argv[1:])
    rank, world = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    if world > 1:
        torch.distributed.init_process_group("gloo", rank=rank, world_size=world)
    from nemo_deploy import DeployPyTriton
    from nemo_deploy.llm.hf_deployable import HuggingFaceLLMDeploy

    whole = {"auto": "cpu"}.get(given.device_map or "", given.device_map)
    model = HuggingFaceLLMDeploy(
        hf_model_id_path=given.hf_model_id_path,
        task=given.task,
        trust_remote_code=given.trust_remote_code,
        device_map=whole,
        torch_dtype=given.torch_dtype,
        tp_plan=given.tp_plan,
    )
    # After loading: transformers cuts the weights wrongly once torch.tensor is not torch's own. Left away with
    # UNMODIFIED set, the package is as a host without GPUs finds it: every answer an error, in status 200.
    if not os.environ.get("UNMODIFIED"):
        tensors_on_cpu()
    if rank:
        model.generate_other_ranks()
        return
    server = DeployPyTriton(
        model=model,
        triton_model_name=given.triton_model_name,
        triton_model_version=given.triton_model_version,
        max_batch_size=given.max_batch_size,
        http_port=given.triton_port,
        address=given.triton_http_address,
    )
    server.deploy()
    server.serve()
    if world > 1:
        torch.distributed.broadcast(torch.tensor([1]), src=0)
    server.stop()


if __name__ == "__main__":
    main()
