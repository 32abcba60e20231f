"""How much `status` and a watcher cost with 1, 100 and 1,000 deployments in one queue.

Each is a real job that waits in a real Slurm, with a run directory of its own. A program in front of squeue counts the
controller's questions; the client's own log counts the remote calls.

Goals: one remote call, at most one question to the controller a call, and never two of a watcher within 15 s; a status
of many takes at most 1.5 times that of one, plus a millisecond a deployment; at most 80 MB of memory.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import subprocess
import sys
import time
from statistics import median

from common import Bench, Sandboxed, arguments

from nemodeploy.sandbox.cluster import Sandbox

SIZES, QUICK_SIZES = (1, 100, 1000), (1, 100)
REPEATS = 7
WATCH_S, QUICK_WATCH_S = 65.0, 20.0
# Clones of a deployment: run directory, link, and a job of its own that is held.
CLONE = """
set -eu
cd "$1/nemodeploy/deployments"; first=$2; token=$(readlink "$first/active"); from=$3; to=$4
while [ "$from" -lt "$to" ]; do
  name=many-$from; new=nd-$name-${token##*-}
  mkdir "$name"; cp -a "$first/$token" "$name/$new"; ln -s "$new" "$name/active"
  sed -i "s/$token/$new/g" "$name/$new/manifest.json"
  /usr/bin/sbatch --hold --parsable --job-name="$new" --chdir="$PWD/$name/$new" --output=/dev/null --wrap=true \\
    >"$name/$new/submit/sbatch.out"
  from=$((from + 1))
done
"""


class Counting:
    """A sandbox in which squeue's calls leave the time they came."""

    def __init__(self, bench: Sandboxed) -> None:
        """Put the programs in front."""
        self.bench, self.sandbox = bench, Sandbox(bench.place)
        self.calls = bench.place.root / "run/squeue-calls"
        self.calls.touch()
        self._shim("squeue", f"date +%s.%N >>{self.calls}")
        self._shim("sbatch", 'case "$*" in *--test-only*) ;; *) set -- --hold "$@" ;; esac')

    def _shim(self, program: str, before: str) -> None:
        path = self.bench.place.shims / program
        path.write_text(f'#!/bin/sh\n{before}\nexec /usr/bin/{program} "$@"\n')
        path.chmod(0o755)

    def times(self) -> list[float]:
        """When squeue was called, since the last time this was asked."""
        found = [float(line) for line in self.calls.read_text().split()]
        self.calls.write_text("")
        return found

    def grow(self, have: int, want: int) -> None:
        """Make it so many deployments."""
        if not have:
            up = [
                sys.executable,
                "-m",
                "nemodeploy",
                "up",
                "--profile",
                "cpu",
                "--name",
                "first",
                "--queue-timeout",
                "1s",
            ]
            with subprocess.Popen(up, env=self.bench.environment, stderr=subprocess.PIPE, text=True) as process:
                assert process.stderr is not None
                next(line for line in process.stderr if "queued" in line)
                process.kill()
            have = 1
        words = (str(self.bench.place.shared), "first", str(have), str(want))
        done = self.sandbox.exec("sh", "-s", *words, stdin=CLONE)
        if done.returncode:
            raise RuntimeError(done.stderr)

    def status(self) -> tuple[float, float, int, int]:
        """Seconds, seconds of CPU, remote calls, and how many deployments it showed."""
        begun, spent = time.perf_counter(), cpu_seconds()
        words = [sys.executable, "-m", "nemodeploy", "status", "--json", "--verbose"]
        done = subprocess.run(words, env=self.bench.environment, capture_output=True, text=True, check=True)
        shown = json.loads(done.stdout)["deployments"]
        assert all(one["state"] == "QUEUED" for one in shown), [one for one in shown if one["state"] != "QUEUED"][:1]
        return time.perf_counter() - begun, cpu_seconds() - spent, done.stderr.count("asked "), len(shown)

    def watch(self, seconds: float) -> list[float]:
        """When a watcher asked the controller."""
        words = [sys.executable, "-m", "nemodeploy", "status", "--watch"]
        self.times()
        with subprocess.Popen(words, env=self.bench.environment, stdout=subprocess.DEVNULL) as process:
            time.sleep(seconds)
            process.kill()
        return self.times()


def cpu_seconds() -> float:
    """What all processes took that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> int:
    """Grow step by step; at each size some calls one after the other, and a watcher at the last."""
    options = arguments(__doc__ or "")
    sizes = QUICK_SIZES if options.quick else SIZES
    took: dict[int, float] = {}
    asked: dict[int, float] = {}
    cpu: dict[int, float] = {}
    calls = 0
    with Sandboxed() as bench:
        counting = Counting(bench)
        have = 0
        for size in sizes:
            counting.grow(have, size)
            have = size
            counting.times()
            runs = [counting.status() for _ in range(REPEATS)]
            assert {shown for *_, shown in runs} == {size}, runs
            took[size] = median(seconds for seconds, *_ in runs)
            cpu[size] = median(seconds for _, seconds, *_ in runs)
            calls = max(calls, *(count for _, _, count, _ in runs))
            asked[size] = len(counting.times()) / REPEATS
        watched = counting.watch(QUICK_WATCH_S if options.quick else WATCH_S)
        counting.sandbox.exec("sh", "-c", "scancel --me")
    apart = min((after - before for before, after in itertools.pairwise(watched)), default=WATCH_S)
    kilobytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    report = Bench("watch", quick=options.quick, counts={"deployments": sizes[-1], "repeats": REPEATS})
    for size in sizes:
        report.figure(f"status_{size}_s", round(took[size], 3), f"seconds for status with {size}, median")
        report.figure(
            f"cpu_{size}_s", round(cpu[size], 3), f"seconds of the client's CPU for status with {size}, median"
        )
    report.figure("remote_calls", calls, "remote calls a status")
    report.figure("controller_questions", max(asked.values()), "questions to the controller a status")
    report.figure("questions_a_minute", round(60 / apart, 1), "questions to the controller a minute, of a watcher")
    report.figure("watch_apart_s", round(apart, 1), "seconds between two questions of a watcher, the fewest")
    report.figure("memory_mb", round(kilobytes / 1024, 1), "MB, the largest process that was started")
    bound = all(took[size] <= 1.5 * took[1] + size / 1000 for size in sizes)
    report.goal("one remote call and one question", calls == 1 and max(asked.values()) == 1)
    report.goal("a watcher asks at most every 15 s", apart >= 14.5)
    report.goal("at most 1.5 times that of one, plus 1 ms a deployment", bound)
    report.goal("at most 80 MB", kilobytes <= 80 * 1024)
    return report.print(as_json=options.json)


if __name__ == "__main__":
    os.chdir("/")
    sys.exit(main())
