"""What a running sandbox is, as its record says."""

from __future__ import annotations

from dataclasses import dataclass

from nemodeploy.sandbox.slurms import MACHINE, SYSTEM_PATH


@dataclass(frozen=True, slots=True)
class State:
    """What runs: the process that keeps it, how it is made, the loopback port of its SSH server, which Slurm, the
    search path of its programs, whether it has accounting, and the second account that may log in (empty: none)."""

    pid: int
    mode: str
    port: int
    slurm: str = MACHINE.name
    path: str = SYSTEM_PATH
    accounting: bool = False
    guest: str = ""
