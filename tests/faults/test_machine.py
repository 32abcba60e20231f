"""The real use cases against a simulated Slurm that may apply a request late: any order of commands and faults."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from nemodeploy.adapters.journal import Journal
from nemodeploy.app import asking, ending
from nemodeploy.app.ports import Ports
from nemodeploy.app.up import Lease, Request, up
from nemodeploy.app.wanted import Wanted, Wish, resolve
from nemodeploy.core.patience import Budget
from nemodeploy.core.readiness import State, judge
from nemodeploy.errors import CancelledByUser, JobEnded, NemodeployError, OutcomeUnknown, QueueTimeout, StartupTimeout
from nemodeploy.values import Secret, Token
from tests.faults.simulated import Job, SimulatedSite, World

CALLS = ("open", "preflight", "take", "receipt", "look", "trace", "cancel", "withhold", "archive", "renew", "revoke")
BREAKS = ("before", "after", "late")
SBATCH = ("", "", "", "lost", "late", "dies", "refused")
WANTED: list[Wanted] = []


def wanted(tmp: Path) -> Wanted:
    """One plan for all examples: what is planned does not matter here."""
    if not WANTED:
        cluster = tmp / "here.yaml"
        cluster.write_text(
            "ssh: {host: localhost}\nruntime: none\nprograms: {llamacpp: [x]}\ncheckpoints: {tiny: /m}\n"
        )
        WANTED.append(resolve(Wish(profile="cpu", name="demo", cluster=str(cluster), settings=[]), {}, needs_site=True))
    return WANTED[0]


class Killed(BaseException):
    """The client is gone; nothing of it runs any more."""


class Notes(Journal):
    """A journal in memory, which a killed client cannot write to any more."""

    def __init__(self) -> None:
        self.kept: set[str] = set()
        self.dead = False

    def note(self, token: Token, **facts: str) -> None:
        if not self.dead:
            self.kept.add(str(token))

    def forget(self, token: Token) -> None:
        if not self.dead:
            self.kept.discard(str(token))

    def entries(self) -> tuple[list[Any], list[Any]]:
        return [], []

    def check(self) -> None:
        pass


class Listener:
    def say(self, phase: str, text: str) -> None:
        pass

    live = say

    def wants_cancel(self, token: str) -> bool:
        return True


class Deployments(RuleBasedStateMachine):
    """Two clients, one name, one cluster."""

    @initialize()
    def begin(self) -> None:
        self.world = World()
        self.plan = WANTED[0]
        self.count = 0
        self.gone: dict[str, int] = {}  # proven gone or never submitted, and how often it had been submitted then
        self.minted: list[str] = []
        self.notes = (Notes(), Notes())

    # -- commands ------------------------------------------------------------------------------------------------

    def site(self, faults: dict[str, list[str]], kill_at: int) -> SimulatedSite:
        calls = 0

        def fault(what: str) -> str:
            nonlocal calls
            calls += 1
            if what not in ("sbatch", "between") and calls == kill_at:
                raise Killed
            left = faults.get(what, [])
            return left.pop(0) if left else ""

        return SimulatedSite(self.plan.cluster, self.world, fault)

    def ports(self, client: int) -> Ports:
        self.notes[client].dead = False
        return Ports(
            clock=self.world,
            journal=self.notes[client],
            reporter=Listener(),
            new_token=self.token,
            nonce=lambda: "n",
            key=lambda _: Secret("k"),
            wall_clock=lambda: "now",
            owner="me",
            version="0",
        )

    def token(self, name: str) -> Token:
        self.count += 1
        token = Token.make(name, milliseconds=self.count, entropy=self.count)
        self.minted.append(str(token))
        return token

    def is_gone(self, token: str) -> None:
        assert not self.alive(token), "gone was said of a living job"
        self.gone[token] = self.world.submitted.count(token)

    def run(self, client: int, command: Callable[[], Any]) -> Any:
        """What a command ended with: its result, the error it told, or Killed."""
        try:
            return command()
        except NemodeployError as error:
            return error
        except Killed as killed:
            self.notes[client].dead = True
            return killed

    @rule(
        client=st.integers(0, 1),
        ttl=st.sampled_from([None, 120, 300]),
        sbatch=st.sampled_from(SBATCH),
        between=st.sampled_from(["", "", "", "cut"]),
        call=st.sampled_from(CALLS),
        breaks=st.lists(st.sampled_from(BREAKS), max_size=4),
        kill_at=st.integers(-20, 30),
        patience=st.sampled_from([5.0, 60.0]),
    )
    def up(
        self,
        client: int,
        ttl: int | None,
        sbatch: str,
        between: str,
        call: str,
        breaks: list[str],
        kill_at: int,
        patience: float,
    ) -> None:
        site = self.site({"sbatch": [sbatch], "between": [between], call: breaks}, kill_at)
        request = Request(
            plan=self.plan.plan,
            bundle=self.plan.bundle,
            secrets={},
            budget=Budget(queue_s=patience, startup_s=patience),
            lease=Lease(ttl, asked=ttl is not None),
        )
        self.minted.clear()
        done = self.run(client, lambda: up(site, self.ports(client), request))
        if isinstance(done, (JobEnded, QueueTimeout, StartupTimeout, CancelledByUser)):
            self.is_gone(done.token)
        elif not isinstance(done, (NemodeployError, Killed)):
            token = str(done.seen.directory.token)
            (job,) = self.alive(token)
            assert job.serving
            assert str(done.seen.directory.endpoint.epoch) == f"{job.job_id}.{job.restart}"
        elif isinstance(done, NemodeployError) and done.exit_code in (10, 11, 12, 20, 130):
            for token in self.minted:  # each says that nothing was submitted
                self.is_gone(token)

    @rule(
        client=st.integers(0, 1),
        call=st.sampled_from(CALLS),
        breaks=st.lists(st.sampled_from(BREAKS), max_size=3),
        kill_at=st.integers(-20, 12),
    )
    def down(self, client: int, call: str, breaks: list[str], kill_at: int) -> None:
        site, ports = self.site({call: breaks}, kill_at), self.ports(client)
        tokens = self.run(client, lambda: [d.token for d in site.look().named("demo")])
        for token in tokens if isinstance(tokens, list) else []:
            done = self.run(client, partial(ending.end, site, ports, token))
            if isinstance(done, ending.Ended):
                self.is_gone(str(token))
            else:
                assert isinstance(done, (OutcomeUnknown, Killed)), done

    @rule(client=st.integers(0, 1))
    def status(self, client: int) -> None:
        site = self.site({}, -1)
        look = site.look()
        for seen in site.see_all(look, look.directories):
            verdict, alive = judge(seen), self.alive(str(seen.directory.token))
            if verdict.gone:
                assert not alive
            if verdict.state is State.READY:
                assert any(job.serving for job in alive)
        if look.answered and not self.world.blind:
            known = {str(directory.token) for directory in look.directories}
            assert {job.token for job in self.alive() if not job.forgotten} <= known, "a living job that status hides"

    # -- the world -----------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1.0, 10.0, 60.0, 400.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.sleep(seconds)

    @rule(up=st.booleans())
    def controller(self, up: bool) -> None:
        self.world.controller = up

    @rule(kind=st.sampled_from(["up", "down", "none"]))
    def accounting(self, kind: str) -> None:
        self.world.accounting, self.world.no_database = kind == "up", kind == "none"

    @rule(blind=st.booleans())
    def empty_queue(self, blind: bool) -> None:
        """Slurm answers, and lists nothing."""
        self.world.blind = blind

    @rule()
    def cold_start(self) -> None:
        """The controller has forgotten every job; those on nodes go on for a while."""
        for job in self.world.jobs:
            job.forgotten = job.forgotten or job.state == "RUNNING" or not job.alive

    @rule(state=st.sampled_from(["NODE_FAIL", "FAILED", "PREEMPTED", "TIMEOUT"]))
    def job_ends(self, state: str) -> None:
        for job in self.alive():
            if job.state == "RUNNING":
                self.world.end(job, state)

    @rule()
    def requeue(self) -> None:
        for job in self.alive():
            if job.state == "RUNNING":
                job.state, job.restart, job.serving, job.since = "PENDING", job.restart + 1, False, self.world.time

    @rule()
    def everybody_leaves(self) -> None:
        """Nobody renews anything for an hour: what has a lease is gone."""
        self.world.controller = True
        self.world.sleep(3600.0)
        for job in self.alive():
            directory = self.world.directories.get(job.token)
            assert directory is None or directory.ttl_s is None, "a leased job outlived its lease"

    # -- what must always hold -----------------------------------------------------------------------------------

    def alive(self, token: str = "") -> list[Job]:
        return [job for job in self.world.jobs if job.alive and token in ("", job.token)]

    @invariant()
    def one_job_a_token(self) -> None:
        submitted = getattr(self, "world", World()).submitted
        assert len(submitted) == len(set(submitted)), "a token was submitted twice"

    @invariant()
    def one_server_a_name(self) -> None:
        if hasattr(self, "world"):
            assert sum(job.serving for job in self.world.jobs) <= 1, "two servers of one name"

    @invariant()
    def what_is_gone_stays_gone(self) -> None:
        for token, count in getattr(self, "gone", {}).items():
            assert self.world.submitted.count(token) == count, "submitted after it was said to be gone"
            assert not self.alive(token)


@pytest.mark.long
@pytest.mark.timeout(7200)  # with --times 10 there are 10,000 examples
def test_any_order_of_commands_and_faults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    wanted(tmp_path)
    monkeypatch.setattr(asking, "recorded", lambda *_, **__: "Paris")
    monkeypatch.setattr(asking, "reach", lambda *_, **__: None)
    examples = 1000 if request.config.getoption("--times") == "1" else 10_000
    kept = settings(
        max_examples=examples,
        stateful_step_count=12,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Deployments, settings=kept)
