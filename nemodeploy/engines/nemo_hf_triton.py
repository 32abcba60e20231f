"""NeMo Export-Deploy's deploy_inframework_hf_triton.py: a Hugging Face checkpoint behind Triton, one process a GPU.

Source: NVIDIA-NeMo/Export-Deploy v0.4.0 to v0.6.0, scripts/deploy/nlp/deploy_inframework_hf_triton.py and
nemo_deploy/llm/hf_deployable.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from nemodeploy.core.planning import Rules
from nemodeploy.core.spec import Prompting, Spec
from nemodeploy.engines.base import not_cut, one_node, takes_precision, whole_kv_heads
from nemodeploy.engines.triton import Setting, Triton
from nemodeploy.values import Sampling

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


class NemoHfTriton(Triton):
    """What serves Hugging Face's form of a model in NeMo containers from 25.07 on.

    It generates greedily whatever it is told, knows no stop strings, and tells its errors as text with status 200. Its
    helpers wait in a broadcast of ten minutes, so it must be asked something more often.
    """

    name = "nemo-hf-triton"
    template = "engines/nemo-hf-triton.sh.j2"
    program = ("/usr/bin/python3", "/opt/Export-Deploy/scripts/deploy/nlp/deploy_inframework_hf_triton.py")
    joined_pattern = "Loading weights|Loading checkpoint shards|Logging level set to"
    output = "sentences"
    samples_by: frozenset[str] = frozenset()

    def rules(self, spec: Spec) -> Rules:
        """One process a GPU of one node: the script takes its global rank for the number of its GPU."""
        found = [*super().rules(spec), *one_node(spec, "the script takes a rank for the number of a GPU")]
        found += [*takes_precision(spec, DTYPES), *whole_kv_heads(spec)]
        found += not_cut(spec, "pipeline", "the script cuts by tensor parallelism only")
        return found

    def arguments(self, spec: Spec, model_path: str, bind: str) -> tuple[str, ...]:
        """Cut over several GPUs it wants no device map, which is said by the option without a value."""
        cut = ("--tp_plan=auto", "--device_map") if spec.layout.tensor_parallel > 1 else ()
        code = ("--trust_remote_code",) if spec.model.trust_remote_code else ()
        return (
            f"--hf_model_id_path={model_path}",
            *cut,
            f"--torch_dtype={DTYPES[spec.precision]}",
            *code,
            f"--triton_model_name={spec.model.name}",
            f"--triton_http_address={bind}",
            f"--max_batch_size={spec.serving.max_batch}",
        )

    def settings(self, prompting: Prompting, sampling: Sampling) -> Sequence[Setting]:
        """Its tokenizer puts its own begin-of-text token in front."""
        return (("max_length", "INT64", (sampling.max_tokens,)),)
