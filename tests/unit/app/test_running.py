"""Interrupts between two steps: the deployment is taken down, or it is said that it may be there."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from nemodeploy.app import connecting, ending, running
from nemodeploy.app.ending import Ended
from nemodeploy.app.holding import Held
from nemodeploy.app.running import Ran, lent
from nemodeploy.app.up import IfTaken
from nemodeploy.app.watching import Up
from nemodeploy.cli.run import _document, _interrupted
from nemodeploy.errors import CancelledByUser, NemodeployError, OutcomeUnknown, StartupTimeout
from nemodeploy.values import Token
from tests.unit.core.test_decode import spec

TOKEN = Token.make("demo", milliseconds=1, entropy=1)


@dataclass(frozen=True)
class Nobody:
    """Ports, as far as they are used."""

    clock: object
    reporter: object = None


class World:
    """Everything beyond `lent`; `fails`: what is raised when the end is to be proven."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ended: list[Token] = []
        self.fails: NemodeployError | None = None
        self.open: Any = lambda _: None
        self.close: Any = lambda: None
        monkeypatch.setattr(running, "up", self.up)
        monkeypatch.setattr(running, "_connection", lambda *_, **__: self)
        monkeypatch.setattr(connecting, "check", lambda *_, **__: None)
        monkeypatch.setattr(ending, "end_for_user", self.end)

    def up(self, *_: object, ours: list[Token], **__: object) -> Up:
        ours.append(TOKEN)
        seen: Any = SimpleNamespace(directory=SimpleNamespace(token=TOKEN))
        return Up(seen=seen, answer="", answer_s=0, adopted=False, queue_s=0, startup_s=0, ready_s=0)

    def end(self, *_: object, **__: object) -> Ended:
        self.ended.append(TOKEN)
        if self.fails:
            raise self.fails
        return Ended(token=TOKEN, job_id="77", submitted=True)

    def run(self, *, keep: bool = False) -> tuple[Ran, NemodeployError]:
        """How far it came, and what is said of an interrupt that came on the way."""
        ports: Any = Nobody(SimpleNamespace(now=lambda: 0.0))
        request: Any = SimpleNamespace(plan=SimpleNamespace(protocol="openai"))
        reporter: Any = SimpleNamespace(say=lambda *_: None)
        ran = Ran()

        def whole() -> None:
            with lent(ports, ports, request, ran, quiet=reporter, if_taken=IfTaken.REFUSE, keep_on_failure=keep):
                pass

        with pytest.raises(KeyboardInterrupt):
            whole()
        wanted: Any = SimpleNamespace(cluster=spec().cluster)
        return ran, _interrupted(wanted, ran)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("where", ["open", "close"])
def test_an_interrupt_anywhere_takes_it_down(world: World, where: str) -> None:
    setattr(world, where, interrupt)
    ran, said = world.run()
    assert (world.ended, ran.gone) == ([TOKEN], True)
    assert isinstance(said, CancelledByUser)


def test_gone_is_said_of_what_is_proven_only(world: World) -> None:
    world.open, world.fails = interrupt, OutcomeUnknown("Slurm does not answer")
    _, said = world.run()
    assert isinstance(said, OutcomeUnknown)
    assert said.token == str(TOKEN)


@pytest.mark.parametrize(
    "failure",
    [
        StartupTimeout("no answer within 6 s of start-up", token=str(TOKEN)),
        CancelledByUser("cancelled; job 77 is gone"),
    ],
)
def test_a_report_says_what_was_held_by_a_start_that_was_given_up(
    world: World, monkeypatch: pytest.MonkeyPatch, failure: NemodeployError
) -> None:
    times = iter((190.0,))  # its end was waited for

    def up(*_: object, ours: list[Token], held: Held, **__: object) -> Up:
        ours.append(TOKEN)
        held.note("77", 100.0)
        raise failure

    monkeypatch.setattr(running, "up", up)
    ports: Any = Nobody(SimpleNamespace(now=lambda: next(times)))
    plan = SimpleNamespace(name="demo", protocol="openai", layout=SimpleNamespace(gpus=16))
    wanted: Any = SimpleNamespace(cluster=spec().cluster, plan=plan)
    ran = Ran()
    with pytest.raises(type(failure)), lent(ports, ports, wanted, ran, quiet=ports, if_taken=IfTaken.REFUSE):
        raise AssertionError("there is no server to use")
    told = _document(wanted, ran, failure, failure.exit_code)
    assert (told["token"], told["job_id"], told["gpu_hours"]) == (str(TOKEN), "77", 16 * 90 / 3600)
    assert world.ended == [], "`up` has taken it down"


def test_what_is_kept_is_not_called_gone(world: World) -> None:
    world.open = interrupt
    ran, said = world.run(keep=True)
    assert (world.ended, ran.left_up) == ([], True)
    assert isinstance(said, OutcomeUnknown)
    assert "it stays up as --keep-on-failure wants" in said.message
