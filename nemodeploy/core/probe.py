"""What the nodes of a short job said, and what it means for a deployment."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from nemodeploy.core.checks import Check, failed, ok, warning
from nemodeploy.core.plan import Plan

OLDEST_BASH = (4, 2)
LEAST_SHM_MB = 1024
Nodes = Mapping[str, Mapping[str, list[str]]]
_LINE = re.compile(
    r"(\S+) (?:(bash) (\d+\.\d+)|(slurm_gpus|gpus|shm_mb) (\d+)|(root|checkpoint|image|program) (yes|no)"
    r"|(port) (free|taken)|(unresolved) (\S+))"
)
_MISSING = (
    ("root", "they do not see the root directory", "root: on storage that the nodes share"),
    ("checkpoint", "they do not see the checkpoint", "checkpoints: as the nodes see them"),
    ("image", "they do not see the image", "images: on storage that the nodes share"),
    ("program", "they do not have the server program", "programs: as the nodes see them"),
)


def parse(text: str) -> dict[str, dict[str, list[str]]]:
    """What each node said: its values by key; whatever else stands there is passed over."""
    found: dict[str, dict[str, list[str]]] = {}
    for match in map(_LINE.fullmatch, text.splitlines()):
        if match:
            node, key, value = filter(None, match.groups())
            found.setdefault(node, {}).setdefault(key, []).append(value)
    return found


def judge(plan: Plan, nodes: Nodes, seen: int, container: tuple[int, str] | None) -> Iterator[Check]:
    """`seen`: how many nodes' files the login host sees; `container`: how it ended, and what it said; None: there is
    none."""
    wanted = plan.layout.nodes
    if len(nodes) < wanted:
        yield failed("nodes", f"{len(nodes)} of {wanted} nodes answered", "ask the site; srun does not start there")
    yield from _missing(nodes)
    if seen < len(nodes):
        what = f"the login host sees what {seen} of {len(nodes)} nodes wrote"
        yield failed("root", what, "root: on storage that the login host and the nodes share")
    yield from _bash(nodes)
    yield from _gpus(plan, nodes)
    yield from _network(plan, nodes)
    small = [
        name
        for name, said in nodes.items()
        if any(mb.isdigit() and int(mb) < LEAST_SHM_MB for mb in said.get("shm_mb", ()))
    ]
    if small and plan.layout.tasks > 1:
        yield warning("/dev/shm", f"{', '.join(small)}: under {LEAST_SHM_MB} MB", "ask the site; NCCL wants it")
    if container:
        yield _started(*container)


def _missing(nodes: Nodes) -> Iterator[Check]:
    for key, what, remedy in _MISSING:
        blind = [name for name, said in nodes.items() if said.get(key) == ["no"]]
        if blind:
            yield failed(key, f"{', '.join(blind)}: {what}", remedy)
        elif any(key in said for said in nodes.values()):
            yield ok(key, "all nodes see it")


def _network(plan: Plan, nodes: Nodes) -> Iterator[Check]:
    lost = sorted({name for said in nodes.values() for name in said.get("unresolved", ())})
    if lost:
        yield failed("names", f"nodes cannot resolve {', '.join(lost)}", "ask the site")
    elif len(nodes) > 1:
        yield ok("names", "the nodes know each other's names")
    taken = [name for name, said in nodes.items() if said.get("port") == ["taken"]]
    if taken:
        yield failed("port", f"{', '.join(taken)}: {plan.port} is taken", "--set port=auto, or slurm.exclusive: true")
    elif plan.port:
        yield ok("port", f"{plan.port} is free")


def _started(status: int, said: str) -> Check:
    if status == 0:
        return ok("container", "it starts on all nodes")
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    what = f"it does not start: {lines[-1] if lines else 'it said nothing'}"
    return failed("container", what, "check images: and mounts:; the line is the runtime's own")


def _bash(nodes: Nodes) -> Iterator[Check]:
    versions = {name: tuple(map(int, said["bash"][0].split("."))) for name, said in nodes.items() if "bash" in said}
    old = [name for name, version in versions.items() if version < OLDEST_BASH]
    if old:
        yield failed("bash", f"{', '.join(old)}: older than 4.2", "ask the site for a newer bash")
    elif versions:
        yield ok("bash", ".".join(map(str, min(versions.values()))))


def _gpus(plan: Plan, nodes: Nodes) -> Iterator[Check]:
    needed = plan.layout.gpus_per_node
    if not needed:
        return
    for key, who in (("slurm_gpus", "Slurm gave"), ("gpus", "nvidia-smi shows")):
        few = [f"{name} {said[key][0]}" for name, said in nodes.items() if key in said and int(said[key][0]) < needed]
        if few:
            yield failed(
                "gpus", f"{who} fewer than {needed} GPUs: {', '.join(few)}", "gpus: {TYPE: {request}}, or ask the site"
            )
        elif any(key in said for said in nodes.values()):
            yield ok("gpus", f"{who} {needed} on each node")
