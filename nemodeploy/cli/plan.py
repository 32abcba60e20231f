"""nemodeploy plan: what would be done, and where every value comes from. No network."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from nemodeploy.cli import options
from nemodeploy.cli.words import clock

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
        click.echo(json.dumps(plan.as_json(), indent=2))
        return
    for line in (*headline(plan), *_memory(plan), *_sources(plan)):
        click.echo(line)


def headline(plan: Plan) -> list[str]:
    """What, on what, where."""
    layout = plan.layout
    nodes = f"{layout.nodes} node{'s' if layout.nodes > 1 else ''} × {layout.gpus_per_node} {plan.gpu_type.upper()}"
    lines = [
        f"{plan.name} on {plan.profile} · {nodes} · TP{layout.tensor_parallel} × PP{layout.pipeline_parallel} · "
        f"{plan.engine} · cluster {plan.cluster}"
    ]
    return lines + [f"  note       {notice}" for notice in plan.notices]


def _memory(plan: Plan) -> list[str]:
    memory = plan.memory
    parts = (
        ("weights", memory.weights_gib_per_gpu, "█"),
        ("KV cache", memory.kv_cache_gib_per_gpu, "▓"),
        ("reserve", memory.reserve_gib_per_gpu, "░"),
    )
    bar = "".join(mark * round(size / memory.total_gib_per_gpu * BAR_WIDTH) for _, size, mark in parts)
    sizes = "   ".join(f"{mark} {name} {size:.1f}" for name, size, mark in parts)
    return [
        f"  memory     {bar[:BAR_WIDTH].ljust(BAR_WIDTH, '·')}  of {memory.total_gib_per_gpu:.1f} GiB per GPU",
        f"             {sizes} GiB",
        f"  time       {clock(plan.time_s)} at most, start-up budget {clock(plan.startup_budget_s)}",
        f"  server     {plan.protocol} on port {plan.port or 'chosen by the job'}, runtime {plan.runtime}",
    ]


def _sources(plan: Plan) -> list[str]:
    keys = [key for key in (*SHOWN_SOURCES, *MORE_SOURCES) if key in plan.sources]
    width = max(map(len, keys), default=0)
    return ["  from", *(f"    {key.ljust(width)}  {plan.sources[key]}" for key in keys)]
