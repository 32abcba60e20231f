"""NeMo's deploy_triton.py: converts a NeMo checkpoint to TensorRT-LLM at start, then serves it behind Triton.

Source: NeMo r2.0.0rc1, v2.0.0 and v2.1.0, scripts/deploy/nlp/deploy_triton.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nemodeploy.core.planning import Rules
from nemodeploy.core.spec import Checkpoint, Prompting, Spec
from nemodeploy.engines.base import image_release, one_node, shared_kv_heads, takes_precision, unknown_release
from nemodeploy.engines.triton import Triton, tensor

CARD_RELEASE = "24.05.llama3.1"
# How the number of GPUs is said. Up to 2.0.0rc1 `--num_gpus` (default 1) overwrites `--tensor_parallelism_size`.
GPUS_OPTION: Mapping[str, str] = {
    CARD_RELEASE: "--num_gpus",
    "24.07": "--num_gpus",
    "24.09": "--tensor_parallelism_size",
    "24.12": "--tensor_parallelism_size",
}
DTYPES = {"bf16": "bfloat16", "fp16": "float16"}


class NemoTrtllm(Triton):
    """The engine of the 8B model; one process, which starts the ranks itself."""

    name = "nemo-trtllm"
    template = "engines/nemo-trtllm.sh.j2"
    program = ("/usr/bin/python3", "/opt/NeMo/scripts/deploy/nlp/deploy_triton.py")
    joined_pattern = "Infer function available as model"
    output = "outputs"
    length = "max_output_len"  # the tensor that bounds the answer

    def rules(self, spec: Spec) -> Rules:
        """One node, since the ranks come from MPI inside the one process."""
        found = [*super().rules(spec), *one_node(spec, "its ranks are started by MPI inside one process")]
        found += [*takes_precision(spec, DTYPES), *shared_kv_heads(spec)]
        if not _checkpoint(spec).model_type:
            what = f"NeMo's exporter must be told what {spec.model.name} is"
            found.append(("engine", what, "model_type: llama, gptnext, … at its checkpoint in the model file"))
        if spec.layout.pipeline_parallel > 1:
            found.append(
                ("layout.pipeline_parallel", "--num_gpus means tensor parallelism", "--set layout.pipeline_parallel=1")
            )
        return (*found, *self.release_rules(spec))

    def release_rules(self, spec: Spec) -> Rules:
        """Its options differ from release to release."""
        why = "is not one whose deploy_triton.py is known"
        return unknown_release(spec, image_release(spec, CARD_RELEASE), tuple(GPUS_OPTION), why)

    def tasks_per_node(self, spec: Spec) -> int:
        """One."""
        return 1

    def arguments(self, spec: Spec, model_path: str, bind: str) -> tuple[str, ...]:
        """A quarter of the length is for the answer, as in the 70B card's 3072 + 1024."""
        answer = max(spec.serving.max_length // 4, 1)
        gpus = GPUS_OPTION.get(image_release(spec, CARD_RELEASE), "--num_gpus")
        return (
            f"--nemo_checkpoint={model_path}",
            f"--model_type={_checkpoint(spec).model_type}",
            f"--triton_model_name={spec.model.name}",
            f"--triton_http_address={bind}",
            f"{gpus}={spec.layout.tensor_parallel}",
            f"--dtype={DTYPES[spec.precision]}",
            f"--max_input_len={spec.serving.max_length - answer}",
            f"--max_output_len={answer}",
            f"--max_batch_size={spec.serving.max_batch}",
        )

    def inputs(self, prompting: Prompting, prompt: str, max_tokens: int) -> Sequence[dict[str, object]]:
        """top_k 1 is greedy; a temperature beside it would change nothing."""
        return (
            tensor("prompts", "BYTES", prompt),
            tensor(self.length, "INT64", max_tokens),
            tensor("top_k", "INT64", 1),
        )


def _checkpoint(spec: Spec) -> Checkpoint:
    return next(one for one in spec.model.checkpoints if one.kind == spec.checkpoint_kind)
