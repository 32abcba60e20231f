"""Which GPUs a job asks of Slurm, which a partition has, and which were granted.

GRES as `sinfo` and `scontrol show job -d` print it: gpu:TYPE:COUNT(S:0-1), the type only where the site names one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nemodeploy.core import gpu_words
from nemodeploy.core.plan import Plan

GPU = re.compile(r"(?<![A-Za-z0-9_])gpu(?::(?P<type>(?!no_consume)[A-Za-z0-9_.-]+?))?(?::no_consume)?:(?P<count>\d+)")
_CONSTRAINT = re.compile(r"--constraint(=|$)|-C")


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """Nodes of a partition that are alike: how many, their GPUs by the site's own type (empty: none), features."""

    nodes: int
    gpus: Mapping[str, int]
    features: tuple[str, ...] = field(default=())

    def count(self, word: str) -> int:
        """Its GPUs of a type, or all of them; those without a type may be of any."""
        return sum(count for one, count in self.gpus.items() if not word or one in ("", word))


def gpus_of(gres: str) -> dict[str, int]:
    """The GPUs in a GRES text, by the site's own type."""
    found: dict[str, int] = {}
    for match in GPU.finditer(gres):
        word = match["type"] or ""
        found[word] = found.get(word, 0) + int(match["count"])
    return found


def features_of(text: str) -> tuple[str, ...]:
    """The features in sinfo's column."""
    return tuple(word for word in re.split(r"[,&|]", text.strip()) if word and word != "(null)")


def asked_gpus(plan: Plan) -> re.Match[str] | None:
    """The `type` (None: any) and the `count` per node for which the job asks; None: it asks in another way."""
    words = " ".join(plan.submit_options)
    return GPU.search(words) or re.search(r"--gpus-per-node=(?:(?P<type>[A-Za-z0-9_.-]+):)?(?P<count>\d+)", words)


def told(kinds: Sequence[Kind]) -> str:
    """What a partition has, in the site's own words."""
    texts = sorted(
        {f"gpu:{word}:{count}" if word else f"gpu:{count}" for one in kinds for word, count in one.gpus.items()}
    )
    features = sorted({word for one in kinds if one.gpus and "" in one.gpus for word in one.features})
    return ", ".join(texts) + (f" with the features {', '.join(features)}" if features else "")


def wrong_type(plan: Plan, partition: str, kinds: Sequence[Kind]) -> tuple[str, str] | None:
    """What is wrong with a request for GPUs of any type, and what to write instead: Slurm could grant others than those
    that the job was planned for. None: nothing, as far as anybody can tell.

    A request that the cluster file gives for this very type is its owner's word, and so is a constraint.
    """
    kind = plan.gpu_type
    if not is_open(plan):
        return None
    there = [one for one in kinds if one.count("") >= plan.layout.gpus_per_node]
    words = [(word, one.features) for one in there for word in one.gpus]
    right = sorted({word for word, features in words if _means(plan, word, features)})
    wrong = [word for word, features in words if gpu_words.tells(word, features) and not _means(plan, word, features)]
    if right and not wrong:
        return None
    listed = ", ".join(types_listed(plan))
    if right:
        request = f"--gpus-per-node={right[0]}:{plan.layout.gpus_per_node}" if right[0] else "--constraint=FEATURE"
        what = (
            f"partition {partition} has other GPUs besides {kind}, and the cluster file does not say how to ask for it"
        )
        return what, f'gpus: {{{kind}: {{request: "{request}"}}}} in the cluster file; there is {told(kinds)}'
    if not wrong and not listed:
        return None
    what = f"partition {partition} has no {kind} GPUs" if wrong else f"the cluster file lists no {kind} GPUs"
    has = f"there is {told(kinds)}" if wrong or any(one.gpus for one in kinds) else f"it lists {listed}"
    has += f"; the cluster file lists {listed}" if listed and has.startswith("there") else ""
    return what, f"another profile, or gpus: {{{kind}: {{request: …}}}} in the cluster file, if it has them; {has}"


def is_untold(plan: Plan, kinds: Sequence[Kind]) -> bool:
    """Whether the job asks for GPUs of any type where the site does not say which they are, nor the cluster file."""
    there = [one for one in kinds if one.count("") >= plan.layout.gpus_per_node]
    words = [(word, one.features) for one in there for word in one.gpus]
    return is_open(plan) and bool(words) and not any(gpu_words.tells(*one) or _means(plan, *one) for one in words)


def types_listed(plan: Plan) -> tuple[str, ...]:
    """The types of GPU for which the cluster file has words."""
    keys = [re.fullmatch(r"gpus\.(.+?)\.(?:request|defaults\..+)", key) for key in plan.sources]
    return tuple(sorted({match[1] for match in keys if match}))


def granted(text: str) -> dict[str, int]:
    """The GPUs that Slurm has given to a job, by type, out of `scontrol show job -d`; none: it does not say."""
    match = re.search(r"^\s*JOB_GRES=(\S+)", text, re.MULTILINE)
    if match:
        return gpus_of(match[1])
    found: dict[str, int] = {}
    for gres in re.findall(r"\sGRES=(\S+)", text):
        for word, count in gpus_of(gres).items():
            found[word] = found.get(word, 0) + count
    return found


def is_open(plan: Plan) -> bool:
    """Whether the job asks for GPUs, and neither it nor the cluster file says of which type."""
    asked = asked_gpus(plan)
    if not plan.layout.gpus_per_node or asked is None or asked["type"]:
        return False
    stated = f"gpus.{plan.gpu_type}.request" in plan.sources
    return not stated and not any(map(_CONSTRAINT.match, plan.submit_options))


def _means(plan: Plan, word: str, features: Sequence[str]) -> bool:
    return gpu_words.means(plan.gpu_type, word, features, memory_gib=plan.memory.total_gib_per_gpu)
