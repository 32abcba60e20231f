"""What the benchmarks share: options, a sandbox of their own that is stopped whatever happens, and the report."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from nemodeploy.sandbox.cluster import Sandbox
from nemodeploy.sandbox.place import Place


def parser(description: str) -> argparse.ArgumentParser:
    """--quick and --json."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help="smaller counts, the same method; under 50 seconds")
    made.add_argument("--json", action="store_true", help="one JSON object as the last line")
    return made


def arguments(description: str) -> argparse.Namespace:
    """What was typed, where nothing else can be."""
    return parser(description).parse_args()


class Sandboxed:
    """A home and a sandbox of the benchmark's own."""

    def __init__(self) -> None:
        """Make the home; the sandbox starts with the `with` block."""
        self.directory = tempfile.TemporaryDirectory(prefix="nemodeploy-bench-")
        self.home = Path(self.directory.name)
        self.place = Place(self.home / "sandbox")
        xdg = {f"XDG_{kind}_HOME": str(self.home / kind.lower()) for kind in ("CONFIG", "STATE", "DATA", "CACHE")}
        self.environment = {**os.environ, **xdg, "HOME": str(self.home), "NEMODEPLOY_SANDBOX_DIR": str(self.place.root)}

    def nemodeploy(self, *words: str, program: Sequence[str] = ("-m", "nemodeploy")) -> str:
        """Run the command; raises when it fails."""
        done = subprocess.run(
            [sys.executable, *program, *words],
            env=self.environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"nemodeploy {' '.join(words)}: {done.stderr}")
        return done.stdout

    @property
    def ssh(self) -> list[str]:
        """The ssh command to the login node."""
        return Sandbox(self.place).ssh_words()

    def __enter__(self) -> Sandboxed:
        self.nemodeploy("sandbox", "up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        Sandbox(self.place).down()
        self.directory.cleanup()


class Bench:
    """The figures of one run, as a table and as one JSON object."""

    def __init__(self, name: str, *, quick: bool, counts: dict[str, int]) -> None:
        """Begin an empty report."""
        self.document: dict[str, object] = {"benchmark": name, "quick": quick, "counts": counts}
        self.lines: list[str] = [f"{name}  {counts}{'  (quick)' if quick else ''}"]
        self.goals: list[tuple[str, bool]] = []

    def figure(self, key: str, value: float, meaning: str) -> None:
        """One measured number."""
        self.document[key] = value
        self.lines.append(f"  {value:>9}  {meaning}")

    def goal(self, text: str, met: bool) -> None:
        """A goal, and whether the figures meet it."""
        self.goals.append((text, bool(met)))

    def print(self, *, as_json: bool) -> int:
        """Print everything; returns 0 also when a goal is missed, since a benchmark informs and does not judge."""
        self.document["goal"] = "; ".join(text for text, _ in self.goals)
        self.document["goal_met"] = all(met for _, met in self.goals)
        for line in self.lines:
            print(line)
        for text, met in self.goals:
            print(f"  goal: {text}: {'met' if met else 'MISSED'}")
        if as_json:
            print(json.dumps(self.document))
        return 0
