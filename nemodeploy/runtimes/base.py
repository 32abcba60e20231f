"""What a container runtime has to know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from nemodeploy.core.spec import Spec


class Runtime(Protocol):
    """How a process gets its container, if it gets one."""

    @property
    def name(self) -> str:
        """As in cluster files."""

    @property
    def template(self) -> str:
        """The fragment that sets the bash array `container`: words between srun and the program."""

    def rules(self, spec: Spec) -> Sequence[tuple[str, str, str]]:
        """What this runtime refuses: dotted key, what is wrong, what to write instead."""

    def model_path(self, spec: Spec) -> str:
        """Where the checkpoint lies as the server program sees it."""

    def mounts(self, spec: Spec) -> tuple[str, ...]:
        """What is mounted, besides the run directory."""

    def program(self, spec: Spec, inside: tuple[str, ...]) -> tuple[str, ...]:
        """The program's words, given those that hold inside the engine's own image."""
