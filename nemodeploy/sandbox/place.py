"""Where a sandbox lives, and which hosts it has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SUBNET = "10.213.0"
LOGIN_ADDRESS = f"{SUBNET}.1"


@dataclass(frozen=True, slots=True)
class Node:
    """One compute node: its name, what GPUs it has (empty type: none), and its place on the network."""

    name: str
    gpu_type: str
    gpus: int
    index: int

    @property
    def address(self) -> str:
        """Its address on the sandbox's own network."""
        return f"{SUBNET}.{10 + self.index}"


NODES = tuple(
    Node(name, gpu_type, gpus, index)
    for index, (name, gpu_type, gpus) in enumerate(
        (
            ("h100-1", "h100", 8),
            ("h100-2", "h100", 8),
            ("a100-1", "a100", 8),
            ("a100-2", "a100", 8),
            ("h200-1", "h200", 8),
        ),
        start=1,
    )
)


@dataclass(frozen=True, slots=True)
class Place:
    """The directory of one sandbox. Everything of it is below, and `sandbox down` leaves only files."""

    root: Path

    @property
    def slurm_conf(self) -> Path:
        """Slurm's configuration; every process of the sandbox names it in its environment."""
        return self.root / "etc/slurm.conf"

    @property
    def ssh_config(self) -> Path:
        """What `ssh -F` needs to log in."""
        return self.root / "ssh/config"

    @property
    def control(self) -> Path:
        """Unix socket on which process 1 takes node commands."""
        return self.root / "run/control"

    @property
    def state(self) -> Path:
        """What runs now: JSON with `pid`, `mode` and `port`; absent when down."""
        return self.root / "run/state.json"

    @property
    def log(self) -> Path:
        """What process 1 and its children said."""
        return self.root / "log/sandbox.log"

    @property
    def munge_socket(self) -> Path:
        """Where munged listens, in a sandbox that has one."""
        return self.root / "munge/socket"

    @property
    def database(self) -> Path:
        """The data of the accounting database; copied afresh at each start."""
        return self.root / "database"

    @property
    def database_socket(self) -> Path:
        """Unix socket of the accounting database."""
        return self.root / "run/database"

    @property
    def shims(self) -> Path:
        """Programs here come first in a login's PATH: a place for faults. Emptied at each start."""
        return self.root / "shims"

    @property
    def programs(self) -> Path:
        """Programs that the sandbox was given besides Slurm's; they come before the machine's own."""
        return self.root / "programs"

    @property
    def local(self) -> Path:
        """A disk of each node's own, where nodes are hosts; empty when the sandbox starts."""
        return self.root / "local"

    @property
    def shared(self) -> Path:
        """The cluster's shared file system, where deployments live; emptied at each start."""
        return self.root / "shared"

    @property
    def home(self) -> Path:
        """The home directory of whoever logs in, on the shared file system as at most sites: what the machine's own
        user has in ~/.bashrc is neither run nor touched."""
        return self.shared / "home"

    def home_of(self, guest: str) -> Path:
        """The home directory of a second account that may log in."""
        return self.shared / "homes" / guest
