"""Deciding how a model is cut over GPUs, and what one GPU then has to hold.

Open choices are tried in the order a person would: precision as the model file lists them, few nodes, tensor
parallelism inside a node before pipeline stages. What was asked for is never changed, only checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol

from nemodeploy.core.documents import Document, Origin, Path
from nemodeploy.core.reading import BadInputs, Problem
from nemodeploy.core.spec import ANY_KIND, Checkpoint, Choices, Draft, Hardware, Layout, Serving, Spec
from nemodeploy.errors import BadInput

GIB = 2**30
BYTES_PER_VALUE = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 1}
KV_BYTES = 2

Rules = Sequence[tuple[str, str, str]]


class Server(Protocol):
    """What planning needs to know of an engine."""

    @property
    def name(self) -> str:
        """As in profiles and registries."""

    @property
    def most_batch(self) -> int:
        """The most sequences at once that are worth planning for when nobody says how many."""

    @property
    def cuts_evenly(self) -> bool:
        """Whether every pipeline stage must have the same number of layers."""

    def rules(self, spec: Spec) -> Rules:
        """What this engine refuses: dotted key, what is wrong, what to write instead."""

    def usable_gib(self, spec: Spec) -> float:
        """Memory of one GPU, in GiB, that weights and KV cache may take together."""

    def bytes_per_weight(self, spec: Spec) -> float:
        """How wide it holds a parameter."""

    def tasks_per_node(self, spec: Spec) -> int:
        """Processes that are started on each node."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedLayout:
    """Where every process goes. `gpus` counts all nodes; 0 on a host without any."""

    tensor_parallel: int
    pipeline_parallel: int
    nodes: int
    gpus_per_node: int
    tasks_per_node: int
    gpus: int

    @property
    def tasks(self) -> int:
        """Processes on all nodes."""
        return self.nodes * self.tasks_per_node


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """What the fullest GPU has to hold, in GiB."""

    weights_gib_per_gpu: float
    kv_cache_gib_per_gpu: float
    reserve_gib_per_gpu: float
    usable_gib_per_gpu: float
    total_gib_per_gpu: float
    fits: bool

    @property
    def need_gib(self) -> float:
        """Weights and KV cache together."""
        return self.weights_gib_per_gpu + self.kv_cache_gib_per_gpu


def decide(
    draft: Draft, server: Server, others: Iterable[Hardware] = (), besides: Callable[[Spec], Rules] = lambda _: ()
) -> Spec:
    """Make every open choice. Raises BadInput with what is wrong, or with need, have and where it would fit.

    `others`: hardware to try when it does not fit, smallest first. `besides`: what else is refused of a decided
    deployment; it is told together with the rest.
    """
    candidates = tuple(_candidates(draft, server))
    if not candidates:
        _refuse(draft, _no_checkpoint(draft, server.name))
    legal = [spec for spec in candidates if not _problems(spec, server)]
    fitting = next((spec for spec in legal if plan_memory(spec, server).fits), None)
    if fitting:
        check(fitting, besides(fitting))
        return fitting
    if legal:
        least = min(legal, key=lambda spec: plan_memory(spec, server).need_gib)
        error = _does_not_fit(least, plan_memory(least, server), _smallest(draft, server, others))
        error.detail += tuple(map(str, _located(least, besides(least))))
        raise error
    nearest = min(candidates, key=lambda spec: len(_problems(spec, server)))
    return _refuse(draft, (*_problems(nearest, server), *besides(nearest)))


def check(spec: Spec, rules: Rules) -> None:
    """Refuse what the site's own words make impossible, all at once. Raises BadInput."""
    if rules:
        _refuse(spec, rules)


def plan_layout(spec: Spec, server: Server) -> PlannedLayout:
    """Where every process of a decided deployment goes."""
    return PlannedLayout(
        tensor_parallel=spec.layout.tensor_parallel,
        pipeline_parallel=spec.layout.pipeline_parallel,
        nodes=spec.nodes,
        gpus_per_node=spec.gpus_per_node,
        tasks_per_node=server.tasks_per_node(spec),
        gpus=spec.nodes * spec.gpus_per_node,
    )


def plan_memory(spec: Spec, server: Server) -> Memory:
    """The budget of the fullest GPU: the first or last pipeline stage, which also holds an embedding matrix.

    KV cache: `max_batch` sequences of `max_length` tokens, see `kv_gib_per_sequence`.
    """
    weights = weights_gib(spec, server.bytes_per_weight(spec))
    kv_cache = kv_gib_per_sequence(spec) * spec.serving.max_batch
    usable = server.usable_gib(spec)
    return Memory(
        weights_gib_per_gpu=round(weights, 2),
        kv_cache_gib_per_gpu=round(kv_cache, 2),
        reserve_gib_per_gpu=round(spec.gpu.memory_gib - usable, 2),
        usable_gib_per_gpu=round(usable, 2),
        total_gib_per_gpu=spec.gpu.memory_gib,
        fits=weights + kv_cache <= usable,
    )


def weights_gib(spec: Spec, width: float) -> float:
    """Weights on the fullest GPU: a stage's share of the blocks, and the embedding of the first or last stage."""
    model, layout = spec.model, spec.layout
    embedding = model.vocabulary * model.hidden
    matrices = 1 if model.tied_embeddings else 2
    blocks = model.parameters_b * 1e9 - matrices * embedding
    edge = embedding if layout.pipeline_parallel > 1 else matrices * embedding
    return (blocks / layout.pipeline_parallel + edge) / layout.tensor_parallel * width / GIB


def kv_gib_per_sequence(spec: Spec) -> float:
    """KV cache of one full sequence on the fullest GPU.

    2 (K and V) x head size x bytes x KV heads, summed over a stage's layers, for each token. A layer with fewer KV
    heads than tensor parallelism has them repeated, one a GPU. Where layers differ, a stage may get the largest.
    """
    model, layout = spec.model, spec.layout
    stage = model.kv_heads[: -(-model.layers // layout.pipeline_parallel)]
    heads = sum(max(count / layout.tensor_parallel, 1) for count in stage if count)
    return 2 * model.head_size * KV_BYTES * heads * spec.serving.max_length / GIB


def _candidates(draft: Draft, server: Server) -> Iterator[Spec]:
    """Everything that agrees with what was asked for, best first."""
    asked = draft.choices
    paths = draft.checkpoint_paths
    there = [one for one in draft.model.checkpoints_for(server.name) if one.kind in paths or ANY_KIND in paths]
    for checkpoint in there or draft.model.checkpoints_for(server.name):
        if asked.precision and checkpoint.precision != asked.precision:
            continue
        for nodes in (asked.nodes,) if asked.nodes else range(1, draft.hardware.nodes + 1):
            for layout in _layouts(asked, nodes * draft.hardware.devices_per_node):
                yield _with_batch(_settled(draft, checkpoint, nodes, layout), server)


def _layouts(asked: Choices, devices: int) -> Iterator[Layout]:
    tensor, pipeline = asked.tensor_parallel, asked.pipeline_parallel
    if tensor or pipeline:
        first = tensor or max(devices // (pipeline or 1), 1)
        yield Layout(tensor_parallel=first, pipeline_parallel=pipeline or max(devices // first, 1))
        return
    for size in range(devices, 0, -1):
        if devices % size == 0:
            yield Layout(tensor_parallel=size, pipeline_parallel=devices // size)


def _settled(draft: Draft, checkpoint: Checkpoint, nodes: int, layout: Layout) -> Spec:
    kept = {field.name: getattr(draft, field.name) for field in fields(Draft)}
    return Spec(
        **kept,
        precision=checkpoint.precision,
        layout=layout,
        serving=Serving(max_length=draft.max_length, max_batch=draft.choices.max_batch or 1),
        nodes=nodes,
        checkpoint_kind=checkpoint.kind,
    )


def _with_batch(spec: Spec, server: Server) -> Spec:
    """As many sequences as fit, unless somebody said how many."""
    if spec.choices.max_batch:
        return spec
    room = server.usable_gib(spec) - weights_gib(spec, server.bytes_per_weight(spec))
    each = kv_gib_per_sequence(spec)
    fitting = int(room / each) if each else server.most_batch
    batch = max(1, min(fitting, server.most_batch))
    return replace(spec, serving=replace(spec.serving, max_batch=batch))


def _problems(spec: Spec, server: Server) -> Rules:
    return (*_shape(spec, evenly=server.cuts_evenly), *_precision(spec), *server.rules(spec))


def _shape(spec: Spec, *, evenly: bool) -> Iterator[tuple[str, str, str]]:
    """What no engine can do: a layout that does not cover the GPUs, or does not divide the model."""
    tensor, pipeline = spec.layout.tensor_parallel, spec.layout.pipeline_parallel
    model, per_node = spec.model, spec.hardware.devices_per_node
    if tensor * pipeline != spec.devices:
        best = max(size for size in range(1, per_node + 1) if model.heads % size == 0 and per_node % size == 0)
        instead = f"--set layout.tensor_parallel={best} --set layout.pipeline_parallel={spec.devices // best}"
        what = f"TP {tensor} x PP {pipeline} is {tensor * pipeline} ranks, but {spec.nodes} nodes x {per_node} GPUs"
        yield "layout", f"{what} are {spec.devices}", instead
    if model.heads % tensor:
        yield "layout.tensor_parallel", f"{tensor} does not divide {model.heads} attention heads", "use a divisor"
    if evenly and model.layers % pipeline:
        yield "layout.pipeline_parallel", f"{pipeline} does not divide {model.layers} layers", "use a divisor"
    if (tensor > per_node or per_node % tensor) and spec.nodes > 1 and not spec.hardware.fast_link:
        what = f"{tensor} crosses nodes of {per_node} GPUs, where tensor parallelism is too slow"
        yield "layout.tensor_parallel", what, "fast_link: true in the profile, if all nodes are one NVLink domain"


def _precision(spec: Spec) -> Iterator[tuple[str, str, str]]:
    if spec.precision == "fp8" and not spec.gpu.fp8:
        what = f"{spec.gpu.type} GPUs have no FP8 arithmetic"
        yield "precision", what, "another precision; or gpu.fp8: true in the profile, if they have it"


def _no_checkpoint(draft: Draft, engine: str) -> Rules:
    model = draft.model
    forms = model.checkpoints_for(engine)
    if not forms:
        reason = model.cannot.get(engine, "it cannot read any checkpoint of it")
        return (("engine", f"{engine} cannot serve {model.name}: {reason}", f"use {' or '.join(model.engines)}"),)
    there = " or ".join(dict.fromkeys(form.precision for form in forms))
    what = f"there is no {draft.choices.precision} checkpoint of {model.name} for {engine}"
    return (("precision", what, f"there is {there}"),)


def _located(draft: Draft, rules: Rules) -> list[Problem]:
    known = Document({}, draft.origins, "built-in default")
    problems = []
    for key, what, instead in rules:
        path: Path = tuple(key.split("."))
        origin = known.origin(path) if path[:1] in {known_path[:1] for known_path in draft.origins} else Origin("plan")
        problems.append(Problem(origin, path, what, instead))
    return problems


def _refuse(draft: Draft, rules: Rules) -> Spec:
    problems = _located(draft, rules)
    raise BadInputs(
        f"profile {draft.profile} cannot serve {draft.model.name}: {problems[0].what}",
        problems,
        hint=next((problem.instead for problem in problems if problem.instead), ""),
    )


def _does_not_fit(spec: Spec, memory: Memory, elsewhere: str) -> BadInput:
    layout = spec.layout
    cut = f"TP{layout.tensor_parallel} x PP{layout.pipeline_parallel}, {spec.nodes} x {spec.hardware.devices_per_node}"
    less = "a smaller serving.max_batch or serving.max_length, or more GPUs"
    if memory.weights_gib_per_gpu > memory.usable_gib_per_gpu:
        less = "more or larger GPUs: the weights alone are too much"
    holder = "each GPU" if spec.gpus_per_node else "the host"
    return BadInput(
        f"{spec.model.name} does not fit on {spec.profile}: {holder} would have to hold {memory.need_gib:.1f} GiB, "
        f"and {memory.usable_gib_per_gpu:.1f} GiB are usable",
        detail=(
            f"need  weights {memory.weights_gib_per_gpu} GiB + KV cache {memory.kv_cache_gib_per_gpu} GiB for "
            f"{spec.serving.max_batch} x {spec.serving.max_length} tokens ({spec.precision}, {cut} {spec.gpu.type})",
            f"have  {memory.total_gib_per_gpu} GiB less {memory.reserve_gib_per_gpu} GiB that {spec.engine} keeps free",
        ),
        hint=f"--profile {elsewhere}   the smallest shipped profile on which it fits" if elsewhere else less,
    )


def _smallest(draft: Draft, server: Server, others: Iterable[Hardware]) -> str:
    """The first of other hardware on which the same thing fits with the layout left open; empty: none."""
    asked = replace(draft.choices, nodes=None, tensor_parallel=None, pipeline_parallel=None)
    for hardware in others:
        try:
            decide(replace(draft, choices=asked, hardware=hardware), server)
        except BadInput:
            continue
        return hardware.name
    return ""
