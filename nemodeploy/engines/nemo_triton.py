"""NeMo's deploy_inframework_triton.py: PyTorch behind Triton, one process a GPU, one node.

Source: NeMo r2.0.0rc1, v2.0.0 and v2.1.0, scripts/deploy/nlp/deploy_inframework_triton.py, whose eight options are
the same in all three; NeMo 2.0.0rc0 (container 24.05) has no such script.
"""

from __future__ import annotations

from collections.abc import Sequence

from nemodeploy.core.planning import Rules
from nemodeploy.core.spec import Prompting, Spec
from nemodeploy.engines.base import image_release, one_node, takes_precision, unknown_release, whole_kv_heads
from nemodeploy.engines.triton import Triton, tensor

CARD_RELEASE = "24.05.llama3.1"
# Containers that hold NeMo 2.0.0rc1, the same, 2.0.0 and 2.1.0.
RELEASES = (CARD_RELEASE, "24.07", "24.09", "24.12")


class NemoTriton(Triton):
    """The engine of the 70B card.

    Its helpers wait in a collective with Lightning's own 30 minutes, so it must be asked something more often.
    """

    name = "nemo-triton"
    template = "engines/nemo-triton.sh.j2"
    program = ("/usr/bin/python3", "/opt/NeMo/scripts/deploy/nlp/deploy_inframework_triton.py")
    joined_pattern = "Initializing distributed: GLOBAL_RANK"
    output = "sentences"
    echoes = True

    def rules(self, spec: Spec) -> Rules:
        """TP is the number of GPUs, and there is no PP."""
        found = [*super().rules(spec), *one_node(spec, "the script knows one machine"), *whole_kv_heads(spec)]
        found += takes_precision(spec, ("bf16", "fp16"))
        if spec.layout.pipeline_parallel > 1:
            found.append(
                (
                    "layout.pipeline_parallel",
                    "the script cuts by tensor parallelism only",
                    "--set layout.pipeline_parallel=1",
                )
            )
        why = "is not one whose deploy_inframework_triton.py is known"
        return (*found, *unknown_release(spec, image_release(spec, CARD_RELEASE), RELEASES, why))

    def arguments(self, spec: Spec, model_path: str, bind: str) -> tuple[str, ...]:
        """No model type and no lengths: this script has no such options and would end at once."""
        return (
            f"--nemo_checkpoint={model_path}",
            f"--triton_model_name={spec.model.name}",
            f"--triton_http_address={bind}",
            f"--num_gpus={spec.layout.tensor_parallel}",
            f"--max_batch_size={spec.serving.max_batch}",
        )

    def inputs(self, prompting: Prompting, prompt: str, max_tokens: int) -> Sequence[dict[str, object]]:
        """Greedy, up to the model's own stop strings."""
        return (
            tensor("prompts", "BYTES", prompt),
            tensor("max_length", "INT64", max_tokens),
            tensor("use_greedy", "BOOL", True),
            tensor("add_BOS", "BOOL", prompting.add_bos),
            tensor("end_strings", "BYTES", *(prompting.stop or ("<|endoftext|>",))),
        )
