"""Deciding whether a layout fits the model and the hardware, and what one GPU has to hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nemodeploy.core.documents import Document, Origin, Path
from nemodeploy.core.reading import Problem
from nemodeploy.core.spec import Spec
from nemodeploy.errors import BadInput

GIB = 2**30
BYTES_PER_VALUE = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 1}
KV_BYTES = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedLayout:
    """Where every process goes: one task per GPU."""

    tensor_parallel: int
    pipeline_parallel: int
    nodes: int
    gpus_per_node: int
    tasks_per_node: int
    gpus: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """What the fullest GPU has to hold, in GiB."""

    weights_gib_per_gpu: float
    kv_cache_gib_per_gpu: float
    reserve_gib_per_gpu: float
    usable_gib_per_gpu: float
    total_gib_per_gpu: float
    fits: bool


def plan_layout(spec: Spec) -> PlannedLayout:
    """One task per GPU on every node of the profile."""
    return PlannedLayout(
        tensor_parallel=spec.layout.tensor_parallel,
        pipeline_parallel=spec.layout.pipeline_parallel,
        nodes=spec.nodes,
        gpus_per_node=spec.gpus_per_node,
        tasks_per_node=spec.gpus_per_node,
        gpus=spec.nodes * spec.gpus_per_node,
    )


def plan_memory(spec: Spec, *, reserve_gib: float) -> Memory:
    """The budget of the fullest GPU: the first or last pipeline stage, which also holds an embedding matrix.

    KV cache: 2 (K and V) x head size x bytes x KV heads x layers for each token, for `max_batch` sequences of
    `max_length` tokens, cut over both kinds of parallelism.
    """
    model, layout = spec.model, spec.layout
    width = BYTES_PER_VALUE[spec.precision]
    embedding = model.vocabulary * model.hidden
    blocks = model.parameters_b * 1e9 - 2 * embedding
    edge = embedding if layout.pipeline_parallel > 1 else 2 * embedding
    weights = (blocks / layout.pipeline_parallel + edge) / layout.tensor_parallel * width / GIB
    heads = max(model.kv_heads / layout.tensor_parallel, 1)
    token = 2 * model.head_size * KV_BYTES * heads * model.layers / layout.pipeline_parallel
    kv_cache = token * spec.serving.max_length * spec.serving.max_batch / GIB
    usable = spec.gpu.memory_gib - reserve_gib
    return Memory(
        weights_gib_per_gpu=round(weights, 2),
        kv_cache_gib_per_gpu=round(kv_cache, 2),
        reserve_gib_per_gpu=reserve_gib,
        usable_gib_per_gpu=round(usable, 2),
        total_gib_per_gpu=spec.gpu.memory_gib,
        fits=weights + kv_cache <= usable,
    )


def check(spec: Spec, memory: Memory, engine_rules: Sequence[tuple[str, str, str]]) -> None:
    """Refuse what cannot work, all at once. Raises BadInput.

    `engine_rules` are the engine's own complaints: dotted key, what is wrong, what to write instead.
    """
    found = [*_divisibility(spec), *engine_rules]
    problems = [
        Problem(_origin(spec, tuple(key.split("."))), tuple(key.split(".")), what, so) for key, what, so in found
    ]
    if problems:
        raise BadInput(
            f"profile {spec.profile} cannot serve {spec.model.name}: {problems[0].what}",
            detail=tuple(str(problem) for problem in problems),
            hint=next((problem.instead for problem in problems if problem.instead), ""),
        )
    if not memory.fits:
        need = memory.weights_gib_per_gpu + memory.kv_cache_gib_per_gpu
        raise BadInput(
            f"{spec.model.name} does not fit: each GPU would have to hold {need:.1f} GiB, "
            f"and {memory.usable_gib_per_gpu} GiB are usable",
            detail=(
                f"weights {memory.weights_gib_per_gpu} GiB, KV cache {memory.kv_cache_gib_per_gpu} GiB, "
                f"reserve {memory.reserve_gib_per_gpu} GiB of {memory.total_gib_per_gpu} GiB per {spec.gpu.type}",
            ),
            hint="more GPUs, or a smaller serving.max_batch or serving.max_length",
        )


def _divisibility(spec: Spec) -> list[tuple[str, str, str]]:
    tensor, pipeline = spec.layout.tensor_parallel, spec.layout.pipeline_parallel
    found = []
    if spec.model.heads % tensor:
        found.append(
            ("layout.tensor_parallel", f"{tensor} does not divide {spec.model.heads} attention heads", "use a divisor")
        )
    if spec.model.layers % pipeline:
        found.append(
            ("layout.pipeline_parallel", f"{pipeline} does not divide {spec.model.layers} layers", "use a divisor")
        )
    return found


def _origin(spec: Spec, path: Path) -> Origin:
    return Document({}, spec.origins, "built-in default").origin(path)
