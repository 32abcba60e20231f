"""What `up`, `status` and `down` cost over the same typed by hand, and what `down --all` of many costs.

In one run, alternately: (a) `nemodeploy up`, `status`, `down`; (b) `ssh` with the same rendered files, submit.sh and a
curl loop; `ssh HOST squeue --me`; scancel and a loop until squeue lists the job no more. Slurm's commands are counted
by programs of the same names in front of them. Then many deployments are up, and `down --all` takes them down.
"""

from __future__ import annotations

import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from common import Bench, Sandboxed, arguments
from up_overhead import NAME, rendered, up_by_hand

SETTLE_S = 1.0
PROGRAMS = ("squeue", "sinfo", "scontrol", "sbatch", "scancel", "sacct")
DOWN = "scancel --batch --signal=TERM $(cat {directory}/job); while squeue -h | grep -q .; do sleep 0.2; done"


class Counted:
    """Slurm's commands on the login node, counted."""

    def __init__(self, bench: Sandboxed) -> None:
        """A program in front of each, which notes its name and becomes the real one."""
        self.calls = bench.home / "calls"
        for name in PROGRAMS:
            real = shutil.which(name)
            shim = bench.place.shims / name
            shim.write_text(f'#!/bin/sh\necho {name} >>{shlex.quote(str(self.calls))}\nexec {real} "$@"\n')
            shim.chmod(0o755)

    def __call__(self, deed: Callable[[], object]) -> int:
        """How many are called meanwhile."""
        self.calls.write_text("")
        deed()
        return len(self.calls.read_text().split())


def timed(deed: Callable[[], object]) -> float:
    """Seconds that it takes."""
    begun = time.monotonic()
    deed()
    return time.monotonic() - begun


def by_hand(bench: Sandboxed, bundle: Path, number: int) -> tuple[float, float, float]:
    """Seconds of the three, typed."""
    directory = f"{bench.place.shared}/hand-{number}"

    def ssh(text: str) -> None:
        subprocess.run([*bench.ssh, text], check=True, capture_output=True)

    return (
        timed(lambda: up_by_hand(bench, bundle, directory)),
        timed(lambda: ssh("squeue --me")),
        timed(lambda: ssh(DOWN.format(directory=directory))),
    )


def by_nemodeploy(bench: Sandboxed) -> tuple[float, float, float]:
    """Seconds of the three commands, their start included."""
    return (
        timed(lambda: bench.nemodeploy("up", "--profile", "h100x16", "--name", NAME)),
        timed(lambda: bench.nemodeploy("status")),
        timed(lambda: bench.nemodeploy("down", NAME)),
    )


def main() -> int:
    """Run the pairs, then the many, and say whether the goals are met."""
    options = arguments(__doc__ or "")
    pairs, many = (2, 4) if options.quick else (8, 20)
    rows: list[tuple[tuple[float, float, float], tuple[float, float, float]]] = []
    with Sandboxed() as bench:
        bundle = rendered(bench)
        by_nemodeploy(bench)  # warm caches, uncounted
        for number in range(pairs):
            time.sleep(SETTLE_S)
            ours = by_nemodeploy(bench)
            time.sleep(SETTLE_S)
            rows.append((ours, by_hand(bench, bundle, number)))
        count = Counted(bench)
        up_calls = count(lambda: bench.nemodeploy("up", "--profile", "h100x16", "--name", NAME))
        bench.nemodeploy("down", NAME)
        for number in range(many):
            bench.nemodeploy("up", "--profile", "cpu", "--name", f"d{number}")
        took: list[float] = []
        down_calls = count(lambda: took.append(timed(lambda: bench.nemodeploy("down", "--all"))))
    report = Bench("commands", quick=options.quick, counts={"pairs": pairs, "many": many})
    goals = {"up": 1.1, "status": 1.3, "down": 1.2}
    for column, (name, goal) in enumerate(goals.items()):
        own, hand = (statistics.median(row[side][column] for row in rows) for side in (0, 1))
        report.figure(f"{name}_s", round(own, 2), f"nemodeploy {name}, median seconds")
        report.figure(f"{name}_by_hand_s", round(hand, 2), "the same by hand")
        report.figure(f"{name}_ratio", round(own / hand, 2), "ratio")
        report.goal(f"{name}: at most {goal} times by hand", own <= hand * goal)
    report.figure("up_slurm_calls", up_calls, "commands of Slurm's that up ran until READY")
    report.figure("down_all_s", round(took[0], 2), f"down --all of {many}, seconds")
    report.figure("down_all_slurm_calls", down_calls, "commands of Slurm's that it ran")
    report.goal("up: at most 4 commands of Slurm's", up_calls <= 4)
    report.goal("down --all: at most 6 s", took[0] <= 6.0)
    return report.print(as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
