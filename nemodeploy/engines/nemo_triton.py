"""NeMo's deploy_inframework_triton.py: PyTorch behind Triton, one process a GPU, one node.

Source: NeMo r2.0.0rc1, v2.0.0 and v2.1.0, scripts/deploy/nlp/deploy_inframework_triton.py, whose eight options are
the same in all three; NeMo 2.0.0rc0 (container 24.05) has no such script.
"""

from __future__ import annotations

from collections.abc import Sequence

from nemodeploy.core.planning import Rules
from nemodeploy.core.spec import Prompting, Spec
from nemodeploy.engines import answers
from nemodeploy.engines.base import image_release, not_cut, one_node, takes_precision, unknown_release, whole_kv_heads
from nemodeploy.engines.triton import Setting, Triton
from nemodeploy.values import Sampling

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
    samples_by = frozenset({"temperature", "top_p"})

    def rules(self, spec: Spec) -> Rules:
        """TP is the number of GPUs, and there is no PP."""
        found = [*super().rules(spec), *one_node(spec, "the script knows one machine"), *whole_kv_heads(spec)]
        found += takes_precision(spec, ("bf16", "fp16"))
        found += not_cut(spec, "pipeline", "the script cuts by tensor parallelism only")
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

    def settings(self, prompting: Prompting, sampling: Sampling) -> Sequence[Setting]:
        """Up to the model's own stop strings and the caller's."""
        stop = (*prompting.stop, *sampling.stop) or (answers.END_OF_TEXT,)
        found: list[Setting] = [
            ("max_length", "INT64", (sampling.max_tokens,)),
            ("use_greedy", "BOOL", (sampling.temperature == 0,)),
            ("add_BOS", "BOOL", (prompting.add_bos,)),
            ("end_strings", "BYTES", stop),
        ]
        if sampling.temperature:
            found += [("temperature", "FP32", (sampling.temperature,)), ("top_p", "FP32", (sampling.top_p,))]
        return found
