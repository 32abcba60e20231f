"""One suite for the real `Site` on the sandbox and for the simulated one, so that the two cannot drift."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from nemodeploy.adapters import clock
from nemodeploy.adapters.transports import connect
from nemodeploy.app.site import Site
from nemodeploy.app.targets import Target
from nemodeploy.app.wanted import Wanted, Wish, resolve
from nemodeploy.core.plan import manifest
from nemodeploy.core.readiness import State, judge
from nemodeploy.core.submission import lease_files
from nemodeploy.sandbox.cluster import Sandbox
from nemodeploy.values import Token
from tests.faults.simulated import SimulatedSite, World

pytestmark = pytest.mark.sandbox
NUMBERS = itertools.count(1)


class Case:
    """A site, how to wait there, and fresh tokens of a name of its own."""

    def __init__(self, site: Site, wanted: Wanted, wait: Callable[[float], None]) -> None:
        self.site, self.wanted, self.wait = site, wanted, wait
        self.number = 0

    def token(self) -> Token:
        self.number += 1
        return Token.make(self.wanted.plan.name, milliseconds=self.number, entropy=time.time_ns())

    def files(self, token: Token, ttl_s: int | None = None) -> dict[str, str]:
        plan, bundle = self.wanted.plan, self.wanted.bundle
        found = {**bundle.files, "manifest.json": manifest(plan, bundle, token=str(token), owner="me")}
        return {**found, **lease_files(ttl_s, "first")}

    def take(self, token: Token, after: Token | None = None, ttl_s: int | None = None) -> str:
        """`submitted`, or the token that has the name, or what is wrong."""
        taking = self.site.take(token, self.files(token, ttl_s), after)
        return "submitted" if taking.receipt.status == 0 else str(taking.held_by or taking.problem)

    def state(self, token: Token) -> State:
        look = self.site.look()
        return judge(self.site.see(look, look.directory(token))).state

    def await_state(self, token: Token, *states: State) -> None:
        for _ in range(100):
            if (seen := self.state(token)) in states:
                return
            self.wait(0.2)
        raise AssertionError(f"{seen} is none of {states}: {self.why(token)}")

    def why(self, token: Token) -> str:
        look = self.site.look()
        return judge(self.site.see(look, look.directory(token))).reason

    def live(self) -> list[str]:
        return [str(one.token) for one in self.site.look().named(self.wanted.plan.name)]


@pytest.fixture(params=["real", "simulated"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    name = f"contract-{next(NUMBERS)}"
    if request.param == "simulated":
        cluster = tmp_path / "here.yaml"
        cluster.write_text(
            "ssh: {host: localhost}\nruntime: none\nprograms: {llamacpp: [x]}\ncheckpoints: {tiny: /m}\n"
        )
        wanted = resolve(Wish(profile="cpu", name=name, cluster=str(cluster), settings=[]), {}, needs_site=True)
        world = World()
        yield Case(SimulatedSite(wanted.cluster, world), wanted, lambda seconds: world.sleep(max(seconds, 1.0)))
        return
    sandbox: Sandbox = request.getfixturevalue("sandbox")
    document = yaml.safe_load((sandbox.place.root / "cluster.yaml").read_text())
    cluster = tmp_path / "real.yaml"
    cluster.write_text(yaml.safe_dump({**document, "programs": {"llamacpp": ["sh", "-c", "exec sleep 600"]}}))
    wanted = resolve(Wish(profile="cpu", name=name, cluster=str(cluster), settings=[]), {}, needs_site=True)
    transport = connect(wanted.cluster)
    found = Case(Site(wanted.cluster, transport, clock.nonce), wanted, time.sleep)
    yield found
    for token in found.live():
        found.site.cancel((Target(token=Token(token)),), gently=False)
        found.await_state(Token(token), State.ENDED, State.SUBMITTING)
        found.site.archive({Token(token): ""})
    transport.close()


def test_a_name_is_taken_once(case: Case) -> None:
    first, second = case.token(), case.token()
    assert case.take(first) == "submitted"
    assert case.take(second) == str(first)
    assert case.live() == [str(first)]


def test_a_token_that_is_proven_gone_has_exactly_one_successor(case: Case) -> None:
    old, new, late = case.token(), case.token(), case.token()
    case.take(old)
    case.site.cancel((Target(token=old),), gently=False)
    case.await_state(old, State.ENDED)
    assert case.take(new, after=old) == "submitted"
    assert case.take(late, after=old) == str(new)
    assert case.live() == [str(new)]


def test_a_receipt_is_the_same_however_often_it_is_read(case: Case) -> None:
    token = case.token()
    case.take(token)
    receipts = [case.site.receipt(token) for _ in range(2)]
    ids = [case.site.scheduler.parse_job_id(receipt.out) for receipt in receipts]
    assert ids[0] == ids[1] != ""
    assert [receipt.status for receipt in receipts] == [0, 0]


def test_what_does_not_have_the_name_is_not_submitted(case: Case) -> None:
    first, other = case.token(), case.token()
    case.take(first)
    assert not case.site.receipt(other).ours


def test_what_is_withheld_can_never_be_submitted(case: Case) -> None:
    token = case.token()
    assert case.site.withhold(token)
    assert case.site.withhold(token), "twice is fine"
    assert case.take(token) != "submitted"
    assert not case.site.receipt(token).ours
    other = case.token()
    case.take(other)
    assert not case.site.withhold(other), "it is submitted already"


def test_a_lease_is_renewed_changed_and_dropped(case: Case) -> None:
    token = case.token()
    case.take(token, ttl_s=300)
    assert case.site.renew(token) == 300
    assert case.site.renew(token, 600) == 600
    assert case.site.look().directory(token).ttl_s == 600
    case.site.drop_lease(token)
    assert case.site.renew(token) is None
    assert case.site.look().directory(token).ttl_s is None


def test_a_job_is_followed_to_its_end_and_out_of_sight(case: Case) -> None:
    token = case.token()
    case.take(token)
    case.await_state(token, State.STARTING, State.READY)
    case.site.cancel((Target(token=token),), gently=True)
    case.await_state(token, State.ENDED)
    assert case.live() == [], "the look that proved the end has archived it"


def test_what_was_revoked_ends_by_itself(case: Case) -> None:
    token = case.token()
    case.take(token)
    case.await_state(token, State.STARTING, State.READY)
    case.site.revoke(token)
    case.await_state(token, State.ENDED)
    assert case.live() == []
