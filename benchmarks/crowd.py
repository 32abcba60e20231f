"""What a look costs among 20,000 rows of other jobs in the queue and 20,000 archived runs.

One deployment is up. A program in front of squeue adds rows of the same account's other jobs to Slurm's own answer, as
wide as Slurm writes them; the archive holds copies of a run directory. Empty and crowded are measured in turn.

Goal: a look takes less than 0.5 s of the login host in the crowd, and so does the last run of a name in the archive.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from statistics import median

from common import Bench, Sandboxed, arguments

from nemodeploy.core import run_directory
from nemodeploy.sandbox.cluster import Sandbox
from nemodeploy.schedulers.slurm_questions import queue_script

CROWD, QUICK_CROWD = 20_000, 5_000
REPEATS = 5
GOAL_S = 0.5
# A copy of the archived run, many times; hard links, since only names and dates count.
COPY = """
set -eu
cd "$1"; first=$(ls -d nd-old-*); number=0
while [ "$number" -lt "$2" ]; do
  token=$(printf 'nd-other-%s-%026d' "$((number % 50))" "$number")
  mkdir -p "$token/submit/go"; ln "$first/manifest.json" "$token/"; number=$((number + 1))
done
"""
SHIM = """\
#!/bin/sh
/usr/bin/squeue "$@" || exit
case "$*" in *--me*) [ ! -e {crowded} ] || cat {rows} ;; esac
"""


def prepare(bench: Sandboxed, crowd: int) -> None:
    """One deployment that is up, one that has ended, the crowd in the archive, and the rows beside squeue."""
    for name in ("old", "up"):
        bench.nemodeploy("up", "--profile", "cpu", "--name", name)
    bench.nemodeploy("down", "old")
    root = bench.place.shared / "nemodeploy"
    Sandbox(bench.place).exec("sh", "-s", str(root / "archive"), str(crowd), stdin=COPY)
    row = Sandbox(bench.place).exec("sh", "-s", stdin=queue_script(str(root))).stdout.splitlines()[0]
    other = row.replace("nd-", "xx-")
    (bench.place.root / "run/rows").write_text(f"{other}\n" * crowd)
    shim = bench.place.shims / "squeue"
    shim.write_text(SHIM.format(crowded=bench.place.root / "run/crowded", rows=bench.place.root / "run/rows"))
    shim.chmod(0o755)


def there(bench: Sandboxed, script: str) -> float:
    """Seconds that a shell text takes on the login host."""
    begun = time.perf_counter()
    done = subprocess.run([*bench.ssh, "--", "sh", "-s"], input=script, capture_output=True, text=True, check=True)
    assert done.stdout
    return time.perf_counter() - begun


def main() -> int:
    """Empty and crowded, one after the other."""
    options = arguments(__doc__ or "")
    crowd = QUICK_CROWD if options.quick else CROWD
    took: dict[str, list[float]] = {}
    with Sandboxed() as bench:
        prepare(bench, crowd)
        root = str(bench.place.shared / "nemodeploy")
        crowded = bench.place.root / "run/crowded"
        look = f"({queue_script(root)})\n({run_directory.list_script(root)})\n"
        last = run_directory.archive_script(root, f"nd-old-{'?' * 26}", minutes=None, most=1)
        for _ in range(REPEATS):
            for key, is_crowded in (("quiet", False), ("crowded", True)):
                crowded.unlink(missing_ok=True)
                if is_crowded:
                    crowded.touch()
                nothing = there(bench, "echo")
                took.setdefault(f"look_{key}", []).append(there(bench, look) - nothing)
                begun = time.perf_counter()
                bench.nemodeploy("status")
                took.setdefault(f"status_{key}", []).append(time.perf_counter() - begun)
            took.setdefault("archived", []).append(there(bench, last) - there(bench, "echo"))
        bench.nemodeploy("status", "old")
    report = Bench("crowd", quick=options.quick, counts={"rows": crowd, "archived": crowd, "repeats": REPEATS})
    for key, seconds in took.items():
        report.figure(f"{key}_s", round(median(seconds), 3), f"seconds, {key.replace('_', ' ')}, median")
    worst = max(max(took["look_crowded"]), max(took["archived"]))
    report.goal(f"a look among them takes less than {GOAL_S} s", worst < GOAL_S)
    return report.print(as_json=options.json)


if __name__ == "__main__":
    os.chdir("/")
    sys.exit(main())
