"""Pure: one module an engine, one line here."""

from collections.abc import Mapping

from nemodeploy.engines.base import Engine
from nemodeploy.engines.llamacpp import LlamaCpp
from nemodeploy.engines.nemo_eval import NemoEval
from nemodeploy.engines.nemo_hf_triton import NemoHfTriton
from nemodeploy.engines.nemo_triton import NemoTriton
from nemodeploy.engines.nemo_trtllm import NemoTrtllm
from nemodeploy.engines.nemo_trtllm_early import NemoTrtllmEarly
from nemodeploy.engines.transformers import Transformers
from nemodeploy.engines.vllm import Vllm

ENGINES: Mapping[str, Engine] = {
    "nemo-eval": NemoEval(),
    "nemo-triton": NemoTriton(),
    "nemo-hf-triton": NemoHfTriton(),
    "nemo-trtllm": NemoTrtllm(),
    "nemo-trtllm-early": NemoTrtllmEarly(),
    "vllm": Vllm(),
    "transformers": Transformers(),
    "llamacpp": LlamaCpp(),
}
