"""NeMo's deploy_triton.py as it was in the early-access inference container, which the 8B card was written for.

The same conversion at start and the same options, another path, and another name for the tensor that bounds the answer.

Source: NVIDIA/NeMo at 00b3d4a7, scripts/deploy/deploy_triton.py and nemo/export/tensorrt_llm.py (`NemoQuery`,
`max_output_token`).
"""

from __future__ import annotations

from nemodeploy.core.planning import Rules
from nemodeploy.core.spec import Spec
from nemodeploy.engines.nemo_trtllm import NemoTrtllm

NO_PORT = 1


class NemoTrtllmEarly(NemoTrtllm):
    """The engine of the 8B card's own client code."""

    name = "nemo-trtllm-early"
    program = ("/usr/bin/python3", "/opt/NeMo/scripts/deploy/deploy_triton.py")
    length = "max_output_token"
    samples_by = frozenset({"temperature", "top_p"})

    def release_rules(self, spec: Spec) -> Rules:
        """There is one release of it, and its tags were never public."""
        return ()

    def gpus_option(self, spec: Spec) -> str:
        """Its one release knows this one."""
        return "--num_gpus"

    def arguments(self, spec: Spec, model_path: str, bind: str) -> tuple[str, ...]:
        """Without another service port it ends at once: it compares the one that it does not open with Triton's."""
        return (*super().arguments(spec, model_path, bind), f"--service_port={NO_PORT}")
