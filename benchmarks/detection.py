"""How long it takes until `status` says that something is wrong, and how often it says so without a reason.

A deployment is brought up, one thing is done to it, and the cluster is asked every second until its state is no longer
READY: a rank is killed, the server is stopped (it is alive and answers nothing), its node is cut off, somebody else
cancels it. Then, with the shipped defaults, a server is kept busy by more questions than it can answer at a time, and
every answer of `status` that is not READY is a false alarm.

Goals: death 90 s, hang 180 s, node lost 180 s, the longest seen; no false alarm. --quick divides every clock by ten,
the job's and Slurm's SlurmdTimeout, and with them the goals.
"""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections.abc import Callable

import hurried
from common import Bench, Sandboxed, arguments

from nemodeploy.adapters import clock
from nemodeploy.adapters.transports import connect
from nemodeploy.app import asking
from nemodeploy.app.site import Site
from nemodeploy.app.status import Deployment, status
from nemodeploy.app.wanted import cluster
from nemodeploy.core.readiness import State
from nemodeploy.errors import ClusterUnreachable
from nemodeploy.sandbox.cluster import Sandbox

GIVE_UP_S = 400.0
REPEATS, QUICK_REPEATS = 3, 1
SOAK_S, QUICK_SOAK_S = 180.0, 5.0
ASKERS = 6


class Watched:
    """One deployment at a time, asked about once a second."""

    def __init__(self, bench: Sandboxed, *, quick: bool) -> None:
        """Connect; `quick`: with clocks divided."""
        self.bench, self.sandbox = bench, Sandbox(bench.place)
        self.program = (hurried.__file__,) if quick else ("-m", "nemodeploy")
        self.site = self.connect()

    def hurry(self) -> None:
        """Every clock divided, Slurm's for a node that is gone, too."""
        hurried.hurry()
        conf = self.sandbox.place.slurm_conf
        text, count = re.subn(
            r"(?m)^SlurmdTimeout=(\d+)$",
            lambda match: f"SlurmdTimeout={int(match[1]) // hurried.DIVISOR}",
            conf.read_text(),
        )
        assert count == 1
        conf.write_text(text)
        self.sandbox.exec("scontrol", "reconfigure")

    def connect(self) -> Site:
        """A connection of its own."""
        found = cluster(str(self.bench.place.root / "cluster.yaml"))
        return Site(found, connect(found), clock.nonce)

    def up(self) -> Deployment:
        """The demo's model, READY."""
        self.bench.nemodeploy("up", "--profile", "cpu", program=self.program)
        return self.now()

    def now(self) -> Deployment:
        """The deployment as it is."""
        (found,) = status(self.site)
        return found

    def delay(self, harm: Callable[[Deployment], None]) -> float:
        """Seconds from the harm until it is not READY any more."""
        deployment = self.up()
        harm(deployment)
        begun = time.monotonic()
        while time.monotonic() - begun < GIVE_UP_S:
            if self.now().verdict.state is not State.READY:
                break
            time.sleep(1.0)
        return time.monotonic() - begun

    def server(self, number: str) -> None:
        """A signal to the server program."""
        self.sandbox.exec("pkill", f"-{number}", "-f", "[l]lama_server.py.*alias=tiny")

    def tidy(self) -> None:
        """Nothing is left of it."""
        self.server("CONT")
        self.bench.nemodeploy("down", "--all")

    def soak(self, seconds: float) -> tuple[int, int, int]:
        """Answers of `status`, those that were not READY, and generations meanwhile."""
        self.up()
        end, answered = time.monotonic() + seconds, [0] * ASKERS
        threads = [threading.Thread(target=self._ask, args=(end, answered, one)) for one in range(ASKERS)]
        for thread in threads:
            thread.start()
        looks = alarms = 0
        while time.monotonic() < end:
            looks += 1
            alarms += self.now().verdict.state is not State.READY
            time.sleep(1.0)
        for thread in threads:
            thread.join()
        return looks, alarms, sum(answered)

    def _ask(self, end: float, answered: list[int], one: int) -> None:
        site = self.connect()
        deployment = status(site)[0]
        endpoint, plan = deployment.endpoint, deployment.seen.directory.plan
        assert endpoint is not None
        while time.monotonic() < end:
            try:
                asking.generate(site, endpoint, plan, "tell me a long story", max_tokens=200, timeout_s=120)
                answered[one] += 1
            except (asking.NoAnswer, ClusterUnreachable):
                continue
        site.transport.close()


def main() -> int:
    """One harm after the other, then the soak."""
    options = arguments(__doc__ or "")
    repeats = QUICK_REPEATS if options.quick else REPEATS
    goals = {"killed": 90.0, "cancelled": 90.0, "hung": 180.0, "node_lost": 180.0}
    if options.quick:
        goals = {name: goal / hurried.DIVISOR for name, goal in goals.items()}
    seen: dict[str, list[float]] = {}
    with Sandboxed() as bench:
        watched = Watched(bench, quick=options.quick)
        if options.quick:
            watched.hurry()

        def cut(deployment: Deployment) -> None:
            node = json.loads(bench.nemodeploy("status", "--json"))["deployments"][0]["nodes"][0]
            del deployment
            watched.sandbox.cut_node(node)
            lost.append(node)

        lost: list[str] = []
        harms: dict[str, Callable[[Deployment], None]] = {
            "killed": lambda _: watched.server("KILL"),
            "cancelled": lambda one: void(watched.sandbox.exec("scancel", one.seen.job_id)),
            "hung": lambda _: watched.server("STOP"),
            "node_lost": cut,
        }
        looks, alarms, generations = watched.soak(QUICK_SOAK_S if options.quick else SOAK_S)
        for name, harm in harms.items():
            for _ in range(repeats):
                while lost:
                    watched.sandbox.mend_node(lost.pop())
                watched.tidy()
                seen.setdefault(name, []).append(watched.delay(harm))
    report = Bench("detection", quick=options.quick, counts={"repeats": repeats, "looks": looks})
    for name, delays in seen.items():
        report.figure(f"{name}_s", round(max(delays), 1), f"seconds until status says so, the longest: {name}")
        divided = f" (every clock divided by {hurried.DIVISOR})" if options.quick else ""
        report.goal(f"{name} within {goals[name]:.0f} s{divided}", max(delays) <= goals[name])
    report.figure("generations", generations, f"generations of {ASKERS} askers during the soak")
    report.figure("false_alarms", alarms, "answers of status during the soak that were not READY")
    report.goal("no false alarm", alarms == 0)
    return report.print(as_json=options.json)


def void(_: object) -> None:
    """Nothing."""


if __name__ == "__main__":
    sys.exit(main())
