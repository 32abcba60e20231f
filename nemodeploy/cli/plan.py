"""nemodeploy plan: what would be done, and where every value comes from. No network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from nemodeploy.cli import options
from nemodeploy.cli.words import clock, put_json, say

if TYPE_CHECKING:
    from nemodeploy.core.plan import Plan

SHOWN_SOURCES = ("model", "engine", "precision", "layout.tensor_parallel", "layout.pipeline_parallel", "nodes")
MORE_SOURCES = (
    "gpus_per_node",
    "time",
    "port",
    "runtime",
    "slurm.partition",
    "serving.max_length",
    "serving.max_batch",
)
BAR_WIDTH = 40


@click.command("plan", short_help="Show what would be done; no network.")
@options.wish
@options.cluster
@options.as_json
def command(as_json: bool, **typed: Any) -> None:
    """Show what `up` would do, without doing it: layout, memory, and the origin of every value."""
    plan = options.resolve(needs_site=False, **typed).plan
    if as_json:
        put_json(plan.as_json(), indent=2)
        return
    for line in (*headline(plan), *_memory(plan), *_sources(plan)):
        say(line)


def headline(plan: Plan) -> list[str]:
    """What, on what, where."""
    layout = plan.layout
    hardware = f"{layout.gpus_per_node} {plan.gpu_type.upper()}" if layout.gpus else "CPU"
    nodes = f"{layout.nodes} node{'s' if layout.nodes > 1 else ''} × {hardware}"
    lines = [
        f"{plan.name} on {plan.profile} · {nodes} · TP{layout.tensor_parallel} × PP{layout.pipeline_parallel} · "
        f"{plan.engine} · cluster {plan.cluster}"
    ]
    return lines + [f"  note       {notice}" for notice in plan.notices]


def gives_back(plan: Plan) -> str:
    """What `down` does, in the words of a next step."""
    return "gives the GPUs back" if plan.layout.gpus else "ends it"


def _memory(plan: Plan) -> list[str]:
    memory = plan.memory
    free = max(memory.usable_gib_per_gpu - memory.need_gib, 0.0)
    parts = (
        ("weights", memory.weights_gib_per_gpu, "█", f"{plan.precision}, {plan.checkpoint_kind} checkpoint"),
        ("KV cache", memory.kv_cache_gib_per_gpu, "▓", f"{plan.serving.max_batch} × {plan.serving.max_length} tokens"),
        ("kept free", memory.reserve_gib_per_gpu, "░", f"for what {plan.engine} needs besides"),
        ("left", free, "·", ""),
    )
    bar = "".join(mark * round(size / memory.total_gib_per_gpu * BAR_WIDTH) for _, size, mark, _ in parts)
    whose = "the fullest GPU" if plan.layout.gpus else "the host's memory"
    return [
        f"  memory     {bar[:BAR_WIDTH].ljust(BAR_WIDTH, '·')}  {memory.total_gib_per_gpu:.1f} GiB of {whose}",
        *(f"             {mark} {name:<10}{size:>6.1f} GiB   {about}".rstrip() for name, size, mark, about in parts),
        f"  processes  {plan.layout.tasks_per_node} on each of {plan.layout.nodes} node{'s' * (plan.layout.nodes > 1)}",
        f"  time       {clock(plan.time_s)} at most, start-up budget {clock(plan.startup_budget_s)}, "
        f"ends itself when it hangs for {clock(plan.hang_timeout_s)}",
        f"  server     {plan.protocol} on port {plan.port or 'chosen by the job'}, runtime {plan.runtime}",
        *([f"  modules    {' '.join(plan.modules)}"] if plan.modules else []),
        *(f"  prolog     {line}" for line in plan.prolog),
        *(f"  unknown    {question}" for question in plan.unknown),
    ]


def _sources(plan: Plan) -> list[str]:
    keys = [key for key in (*SHOWN_SOURCES, *MORE_SOURCES) if key in plan.sources]
    width = max(map(len, keys), default=0)
    return ["  from", *(f"    {key.ljust(width)}  {plan.sources[key]}" for key in keys)]
