"""NeMo's deploy_triton.py: converts a NeMo checkpoint to TensorRT-LLM at start, then serves it behind Triton.

Source: NeMo r2.0.0rc1, v2.0.0 and v2.1.0, scripts/deploy/nlp/deploy_triton.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nemodeploy.core.planning import Rules
from nemodeploy.core.spec import Checkpoint, Prompting, Spec
from nemodeploy.engines.base import image_release, not_cut, one_node, shared_kv_heads, takes_precision, unknown_release
from nemodeploy.engines.triton import Setting, Triton
from nemodeploy.values import Sampling

CARD_RELEASE = "24.05.llama3.1"
# How the number of GPUs is said. Up to 2.0.0rc1 `--num_gpus` (default 1) overwrites `--tensor_parallelism_size`.
GPUS_OPTION: Mapping[str, str] = {
    CARD_RELEASE: "--num_gpus",
    "24.07": "--num_gpus",
    "24.09": "--tensor_parallelism_size",
    "24.12": "--tensor_parallelism_size",
}
ANSWER_SHARE = 4
SEEDS = 2**63
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
        found += not_cut(spec, "pipeline", "--num_gpus means tensor parallelism")
        return (*found, *self.release_rules(spec))

    def release_rules(self, spec: Spec) -> Rules:
        """Its options differ from release to release."""
        why = "is not one whose deploy_triton.py is known"
        return unknown_release(spec, image_release(spec, CARD_RELEASE), tuple(GPUS_OPTION), why)

    def tasks_per_node(self, spec: Spec) -> int:
        """One."""
        return 1

    def gpus_option(self, spec: Spec) -> str:
        """How the number of GPUs is said in its release."""
        return GPUS_OPTION.get(image_release(spec, CARD_RELEASE), "--num_gpus")

    def arguments(self, spec: Spec, model_path: str, bind: str) -> tuple[str, ...]:
        """A quarter of the length is for the answer, as in the 70B card's 3072 + 1024."""
        answer = self.longest_answer(spec.serving.max_length)
        return (
            f"--nemo_checkpoint={model_path}",
            f"--model_type={_checkpoint(spec).model_type}",
            f"--triton_model_name={spec.model.name}",
            f"--triton_http_address={bind}",
            f"{self.gpus_option(spec)}={spec.layout.tensor_parallel}",
            f"--dtype={DTYPES[spec.precision]}",
            f"--max_input_len={spec.serving.max_length - answer}",
            f"--max_output_len={answer}",
            f"--max_batch_size={spec.serving.max_batch}",
        )

    def longest_answer(self, max_length: int) -> int:
        """What it was built for."""
        return max(max_length // ANSWER_SHARE, 1)

    def settings(self, prompting: Prompting, sampling: Sampling) -> Sequence[Setting]:
        """top_k 1 is greedy; a temperature beside it would change nothing."""
        found: list[Setting] = [(self.length, "INT64", (sampling.max_tokens,))]
        if sampling.temperature == 0:
            return (*found, ("top_k", "INT64", (1,)))
        found += [("top_k", "INT64", (0,)), ("top_p", "FP32", (sampling.top_p,))]
        found.append(("temperature", "FP32", (sampling.temperature,)))
        if sampling.seed is not None:
            found.append(("random_seed", "INT64", (sampling.seed % SEEDS,)))
        return found


def _checkpoint(spec: Spec) -> Checkpoint:
    return next(one for one in spec.model.checkpoints if one.kind == spec.checkpoint_kind)
