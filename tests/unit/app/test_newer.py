"""A deployment that a newer version made: nothing waits for what no look can tell, and nothing of it is changed."""

from __future__ import annotations

import json
from typing import Any

import click
import pytest

from nemodeploy.app import ending, waiting
from nemodeploy.app.status import status
from nemodeploy.app.up import IfTaken, obtain, up
from nemodeploy.cli.generate import command as generate
from nemodeploy.cli.keep import command as keep
from nemodeploy.cli.wait import command as wait
from nemodeploy.core.readiness import State
from nemodeploy.errors import NemodeployError, OutcomeUnknown, PreflightFailed
from nemodeploy.values import Token
from tests.unit.app.test_site import Login, accepted, gone_when_cancelled, login

__all__ = ["login"]
NEWER: dict[str, Any] = {"schema": "nemodeploy/manifest@9", "version": "9.1.0\x1b[31m"}
SAYS = r"cannot use demo on here: written by a newer version of nemodeploy \(9.1.0\)"


def running(login: Login, **changed: object) -> Token:
    """One whose manifest has something else; all the rest of it is as ours."""
    token = accepted(login)
    path = login.shared / "deployments/demo" / str(token) / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **(changed or NEWER)}))
    login.row("77", "RUNNING", token)
    return token


def told_at_once(login: Login, error: NemodeployError, token: Token) -> None:
    assert error.exit_code == 12
    assert error.token == str(token)
    assert error.hint.startswith("install that version to use it; nemodeploy down demo --cluster ")
    assert login.clock.time == 0.0, "nothing was waited for"
    assert login.submissions() == 1


@pytest.mark.parametrize("if_taken", [IfTaken.ADOPT, IfTaken.REFUSE])
@pytest.mark.parametrize("digest", ["same", "other"])
def test_up_and_run_say_so_at_once(login: Login, if_taken: IfTaken, digest: str) -> None:
    token = running(login, **NEWER, **({} if digest == "same" else {"digest": "other"}))
    with pytest.raises(PreflightFailed, match=SAYS) as caught:
        up(login.site(), login.ports(), login.request(), if_taken=if_taken)
    told_at_once(login, caught.value, token)


def test_a_manifest_that_is_none_is_no_reason_to_wait_either(login: Login) -> None:
    running(login, plan={"model": 7})
    with pytest.raises(PreflightFailed, match="its manifest cannot be read") as caught:
        up(login.site(), login.ports(), login.request())
    assert caught.value.hint.startswith("nemodeploy down demo")


def test_whether_it_is_ready_is_not_waited_for(login: Login) -> None:
    token = running(login)
    (first,) = status(login.site())
    assert first.verdict.state is State.UNKNOWN
    with pytest.raises(PreflightFailed, match=SAYS) as caught:
        waiting.wait(login.site(), login.ports(), first, waiting.READY, timeout_s=60.0)
    told_at_once(login, caught.value, token)


def test_its_end_is_waited_for_and_seen(login: Login) -> None:
    token = running(login)
    (first,) = status(login.site())
    with pytest.raises(OutcomeUnknown, match="written by a newer version"):
        waiting.wait(login.site(), login.ports(), first, waiting.GONE, timeout_s=60.0)
    assert login.listener.lines == ["waiting UNKNOWN written by a newer version of nemodeploy (9.1.0)"], "no outage"
    gone_when_cancelled(login)
    assert ending.end(login.site(), login.ports(), token).job_id == "77"
    found = waiting.wait(login.site(), login.ports(), first, waiting.GONE, timeout_s=60.0)
    assert found is None or found.verdict.gone


@pytest.mark.parametrize(
    ("command", "words"),
    [(generate, ["hello"]), (keep, ["--ttl", "5m"]), (keep, ["--no-ttl"]), (wait, ["--timeout", "1"])],
)
def test_no_command_uses_it_or_changes_its_lease(login: Login, command: click.Command, words: list[str]) -> None:
    token = running(login)
    lease = login.shared / "deployments/demo" / str(token) / "lease"
    lease.write_text("words of a newer version")
    with pytest.raises(PreflightFailed, match=SAYS) as caught:
        command.main(["demo", "--cluster", str(login.path / "here.yaml"), *words], standalone_mode=False)
    told_at_once(login, caught.value, token)
    assert lease.read_text() == "words of a newer version"


def test_it_can_be_replaced(login: Login) -> None:
    old = running(login)
    gone_when_cancelled(login)
    new, made = obtain(login.site(), login.ports(), login.request(), [], IfTaken.REPLACE)
    assert made
    assert new != old
    assert (login.shared / "archive" / str(old)).is_dir()
