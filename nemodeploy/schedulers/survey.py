"""What a site's scheduler offers, whoever it is: for `doctor`, which judges it, and `init`, which writes it down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nemodeploy.schedulers.node_states import Use, use_of


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeKind:
    """Nodes of a partition that are alike: how many, their GPUs by type (type empty: the site names none), state as
    the scheduler says it, CPUs, memory in MB, and features."""

    partition: str
    nodes: int
    gpus: Mapping[str, int]
    state: str
    cpus: int
    memory_mb: int
    features: tuple[str, ...]

    @property
    def is_up(self) -> bool:
        """Whether it runs jobs, now or when others have ended or it has come back by itself."""
        return use_of(self.state) is not Use.NO


@dataclass(frozen=True, kw_only=True, slots=True)
class Partition:
    """A queue: its longest time in seconds (None: no limit), most nodes (None: no limit), and who may use it."""

    name: str
    is_default: bool
    state: str
    longest_s: int | None
    most_nodes: int | None
    fields: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """All of it. `problem`: the scheduler could not be asked; `accounts`: of this user, each with its QOS; None: the
    site keeps none, or does not say. `settings`: the controller's own words."""

    version: str
    missing: tuple[str, ...] = ()
    problem: str = ""
    partitions: Mapping[str, Partition] = field(default_factory=dict)
    nodes: tuple[NodeKind, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)
    accounts: Mapping[str, tuple[str, ...]] | None = None
    accounting: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def default_partition(self) -> str:
        """Where a job goes that names none; empty: nowhere."""
        return next((one.name for one in self.partitions.values() if one.is_default), "")

    def of(self, partition: str) -> tuple[NodeKind, ...]:
        """The nodes of one partition."""
        return tuple(one for one in self.nodes if one.partition == partition)
