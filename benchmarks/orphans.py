"""Clients killed by SIGKILL at every step of `up`: is anything alive once the lease has run out.

A dry run counts the steps: the moments before, during and after each note in the journal, each connection and each
remote call, up to READY. Then a client with a lease of 5 s is killed at each of twelve of them, spread evenly, 25
times, several at once, and nobody comes back. 10 s after the lease has run out Slurm is asked what it holds for each.

With --results FILE each kill is appended as a line, and a run that was broken off goes on where it stopped.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common import Bench, Sandboxed, parser

from nemodeploy.sandbox.cluster import Sandbox

CRASH = Path(__file__).parents[1] / "tests/faults/crash.py"
TTL_S, MARGIN_S = 5, 10
PHASES, TIMES = 12, 25
AT_ONCE = 4


def crash(bench: Sandboxed, step: int, name: str, state: str) -> tuple[int, list[str]]:
    """`up` that dies at a step; its exit status, and the steps that it took."""
    log = bench.home / f"steps-{name}"
    words = (sys.executable, str(CRASH), str(step), str(log), "up", "--profile", "cpu", "--name", name)
    done = subprocess.run(
        (*words, "--ttl", f"{TTL_S}s"),
        env={**bench.environment, "XDG_STATE_HOME": state},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    return done.returncode, log.read_text().splitlines()


def alive(bench: Sandboxed) -> list[str]:
    """Names of the jobs that Slurm holds anything for."""
    return Sandbox(bench.place).exec("squeue", "--noheader", "--format=%j").stdout.split()


def batch(bench: Sandboxed, kills: list[tuple[int, int]], steps: list[str]) -> list[dict[str, object]]:
    """Some kills at once, and what is left of each when its lease has run out and the margin has passed."""
    names = {f"kill-{step}-{time_}": step for step, time_ in kills}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        ended = pool.map(lambda item: crash(bench, item[1], item[0], str(bench.home / "state")), names.items())
        codes = dict(zip(names, (code for code, _ in ended), strict=True))
    begun = time.monotonic()
    took = dict.fromkeys(names, 0.0)
    while time.monotonic() - begun < TTL_S + MARGIN_S:
        left = alive(bench)
        for name in names:
            if any(job.startswith(f"nd-{name}-") for job in left):
                took[name] = time.monotonic() - begun
        time.sleep(0.5)
    left = alive(bench)
    return [
        {
            "name": name,
            "step": steps[step - 1],
            "killed": codes[name] == -9,
            "orphan": any(job.startswith(f"nd-{name}-") for job in left),
            "alive_s": round(took[name], 1),
        }
        for name, step in names.items()
    ]


def main() -> int:
    """Kill, wait, count, and say whether the goal is met."""
    options = parser(__doc__ or "")
    options.add_argument("--results", type=Path, help="append every kill to this file, and go on from what is in it")
    options.add_argument("--times", type=int, help=f"how often at each of {PHASES} steps; default {TIMES}, quick 1")
    given = options.parse_args()
    kept = given.results.read_text().splitlines() if given.results and given.results.exists() else []
    rows: list[dict[str, object]] = [json.loads(line) for line in kept]
    times = given.times or (1 if given.quick else TIMES)
    with Sandboxed() as bench:
        _, steps = crash(bench, 0, "whole", str(bench.home / "state"))
        phases = [1 + round(number * (len(steps) - 1) / (PHASES - 1)) for number in range(PHASES)]
        kills = [(step, turn) for turn in range(times) for step in phases][len(rows) :]
        while kills:
            some, kills = kills[:PHASES], kills[PHASES:]
            found = batch(bench, some, steps)
            rows += found
            if given.results:
                with given.results.open("a") as file:
                    file.writelines(json.dumps(row) + "\n" for row in found)
            print(f"  {len(rows)} of {PHASES * times}", file=sys.stderr)
    report = Bench("orphans", quick=given.quick, counts={"kills": len(rows), "steps_of_up": len(steps)})
    report.figure("killed", sum(bool(row["killed"]) for row in rows), "clients that died by SIGKILL")
    report.figure("orphans", sum(bool(row["orphan"]) for row in rows), f"jobs alive {TTL_S + MARGIN_S} s later")
    report.figure(
        "longest_s", max(float(str(row["alive_s"])) for row in rows), "longest that a job outlived its client"
    )
    report.goal(f"no orphan of {len(rows)}", not any(row["orphan"] for row in rows))
    return report.print(as_json=given.json)


if __name__ == "__main__":
    sys.exit(main())
