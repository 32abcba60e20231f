"""Connections cut while a job is submitted: is there ever a second job, or one that nobody knows of.

Every trial has a name of its own. A proxy resets the SSH connection, in turn after a random number of bytes anywhere
from the key exchange to the receipt, after a random number of the last bytes (most are the upload), and after a random
time (no byte flows while sbatch works). Then `up`'s own submission is called again, as a user would, until it knows
its job. Slurm itself says afterwards how many jobs there ever were. The job is `sleep`: only the submission counts.

With --results FILE each trial is appended as a line, and a run that was broken off goes on where it stopped.
"""

from __future__ import annotations

import json
import logging
import random
import statistics
import sys
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path

import yaml
from common import Bench, Sandboxed, parser

from nemodeploy.adapters import clock
from nemodeploy.adapters.journal import Journal
from nemodeploy.adapters.keys import key_of
from nemodeploy.adapters.transports import connect
from nemodeploy.app.ports import Ports
from nemodeploy.app.site import Site
from nemodeploy.app.up import IfTaken, Request, obtain
from nemodeploy.app.wanted import Wanted, Wish, resolve
from nemodeploy.core.patience import Budget
from nemodeploy.errors import NemodeployError
from nemodeploy.sandbox.cluster import Sandbox
from nemodeploy.sandbox.proxy import Proxy
from nemodeploy.values import Token
from nemodeploy.version import __version__

FULL, QUICK = 1000, 24
LAST_BYTES = 1500
ATTEMPTS = 5


class Silent:
    """A reporter that says nothing."""

    def say(self, phase: str, text: str) -> None:
        """Nothing."""

    live = say

    def wants_cancel(self, token: str) -> bool:
        """Never asked."""
        return True


class Trials:
    """Submissions through a proxy to one sandbox."""

    def __init__(self, bench: Sandboxed, proxy: Proxy) -> None:
        """Write the cluster file that leads through the proxy."""
        self.bench, self.proxy = bench, proxy
        self.sandbox = Sandbox(bench.place)
        document = yaml.safe_load((bench.place.root / "cluster.yaml").read_text())
        document["ssh"]["config"] = str(proxy.ssh_config(bench.place, bench.home))
        document["programs"] = {"llamacpp": ["sh", "-c", "exec sleep 3600"]}
        self.cluster = bench.home / "through.yaml"
        self.cluster.write_text(yaml.safe_dump(document))
        self.ports = Ports(
            clock=clock.SystemClock(),
            journal=Journal(bench.home / "state"),
            reporter=Silent(),
            new_token=clock.new_token,
            nonce=clock.nonce,
            key=partial(key_of, bench.home / "state"),
            wall_clock=clock.utc_now,
            owner="benchmark",
            version=__version__,
        )

    def wanted(self, name: str) -> Wanted:
        """A one-process deployment of a name."""
        return resolve(Wish(profile="cpu", name=name, cluster=str(self.cluster), settings=[]), {}, needs_site=True)

    def submit(self, wanted: Wanted) -> Token:
        """What `up` does until it knows its job, on a connection of its own."""
        transport = connect(wanted.cluster)
        try:
            site = Site(wanted.cluster, transport, clock.nonce)
            request = Request(
                plan=wanted.plan, bundle=wanted.bundle, secrets={}, budget=Budget(queue_s=None, startup_s=60.0)
            )
            return obtain(site, self.ports, request, [], IfTaken.ADOPT)[0]
        finally:
            transport.close()

    def trial(self, number: int, whole: int, lasts_s: float) -> dict[str, object]:
        """One cut, and what came of it. `whole`: the bytes of a submission; `lasts_s`: its seconds."""
        wanted = self.wanted(f"cut-{number}")
        dice = random.Random(number)
        kind = ("anywhere", "late", "timed")[number % 3]
        cut = (
            dice.uniform(0.3, 1.0) * lasts_s
            if kind == "timed"
            else dice.randrange(0 if kind == "anywhere" else whole - LAST_BYTES, whole)
        )
        self.proxy.cut = False
        timer = threading.Timer(cut, self.proxy.cut_now)
        if kind == "timed":
            timer.start()
        else:
            self.proxy.arm(int(cut))
        begun, first, token = time.monotonic(), "", None
        for _ in range(ATTEMPTS):
            try:
                token = self.submit(wanted)
                break
            except NemodeployError as error:
                first = first or f"{error.exit_code}"
            finally:
                timer.cancel()
                self.proxy.left = None
        took = time.monotonic() - begun
        return {
            "trial": number,
            "kind": kind,
            "cut": cut,
            "was_cut": self.proxy.cut,
            "first": first or "0",
            "token": str(token or ""),
            "seconds": round(took, 3),
        }

    def jobs(self) -> Counter[str]:
        """Every job that Slurm ever had, by its name, which is a token."""
        queue = self.sandbox.exec("squeue", "--noheader", "--states=all", "-O", "JobID:24,Name:96").stdout
        done = self.sandbox.exec("sacct", "-c", "-n", "-P", "-o", "JobID,JobName").stdout.replace("|", " ")
        pairs = {tuple(line.split()) for line in (*queue.splitlines(), *done.splitlines()) if " nd-" in line}
        return Counter(pair[1] for pair in pairs)

    def take_down(self) -> None:
        """End every job of ours, all at once."""
        self.sandbox.exec("scancel", "--me", "--quiet")


def run(bench: Sandboxed, first: int, count: int, results: Path | None) -> list[dict[str, object]]:
    """The trials from a number on, each judged by Slurm's own list of jobs."""
    state = Sandbox(bench.place).state()
    assert state is not None
    proxy = Proxy(state.port)
    trials = Trials(bench, proxy)
    try:
        before, begun = proxy.passed, time.monotonic()
        trials.submit(trials.wanted("whole"))
        whole, lasts_s = proxy.passed - before, time.monotonic() - begun
        rows = []
        for number in range(first, first + count):
            row = trials.trial(number, whole, lasts_s)
            jobs = trials.jobs()
            mine = {token: jobs[token] for token in jobs if token.startswith(f"nd-cut-{number}-")}
            row |= {"jobs": sum(mine.values()), "lost": sum(token != row["token"] for token in mine)}
            rows.append(row)
            if results:
                with results.open("a") as file:
                    file.write(json.dumps(row) + "\n")
            if number % 20 == 19:
                trials.take_down()
                print(f"  {number + 1} of {first + count}", file=sys.stderr)
        return rows
    finally:
        proxy.close()


def main() -> int:
    """Run, count, and say whether the goal is met."""
    options = parser(__doc__ or "")
    options.add_argument("--count", type=int, help=f"trials; default {FULL}, quick {QUICK}")
    options.add_argument("--results", type=Path, help="append every trial to this file, and go on from what is in it")
    given = options.parse_args()
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)  # broken connections are the point
    count = given.count or (QUICK if given.quick else FULL)
    kept = (
        [json.loads(line) for line in given.results.read_text().splitlines()]
        if given.results and given.results.exists()
        else []
    )
    with Sandboxed() as bench:
        rows = kept[:count] + run(bench, len(kept), max(count - len(kept), 0), given.results)
    first = Counter(str(row["first"]) for row in rows)
    duplicates = sum(max(int(str(row["jobs"])) - 1, 0) for row in rows)
    lost = sum(int(str(row["lost"])) for row in rows)
    unknown = sum(not row["token"] for row in rows)
    report = Bench("exactly_once", quick=given.quick, counts={"trials": len(rows)})
    report.figure("cut", sum(bool(row["was_cut"]) for row in rows), "connections that were cut")
    report.figure("at_once", first["0"], "submissions that recovered by themselves")
    report.figure("unsent", first["11"] + first["10"], "ended with 10 or 11, nothing submitted, and were typed again")
    report.figure("in_doubt", first["50"], "ended with 50 and were typed again")
    report.figure("duplicates", duplicates, "jobs too many")
    report.figure("lost", lost, "jobs that nobody knew of")
    report.figure("unknown", unknown, f"names without a known job after {ATTEMPTS} attempts")
    report.figure("median_s", statistics.median(float(str(row["seconds"])) for row in rows), "median seconds a trial")
    report.figure("open_files", len(list(Path("/proc/self/fd").iterdir())), "files this process has open at the end")
    report.figure("longest_s", max(float(str(row["seconds"])) for row in rows), "longest")
    report.goal(f"no duplicate and no lost job in {len(rows)}", duplicates == lost == unknown == 0)
    return report.print(as_json=given.json)


if __name__ == "__main__":
    sys.exit(main())
