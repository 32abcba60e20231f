"""Several deployments are asked about, and ended, together."""

from __future__ import annotations

from pathlib import Path

import pytest

from nemodeploy.app import ending
from nemodeploy.app.down import Living, check_names, down, living, names_seen, worst
from nemodeploy.cli.status import View
from nemodeploy.core.readiness import State
from nemodeploy.errors import BadInput, OutcomeUnknown
from nemodeploy.schedulers.slurm_questions import _COLUMNS
from nemodeploy.values import Token
from tests.unit.app.test_site import NO_ACCOUNTING, Login, accepted, login

__all__ = ["login"]


def fleet(login: Login, count: int) -> list[Token]:
    """Running deployments of several names, with the ids 100, 101, …; scancel ends those that it is told of."""
    rows, told, tokens = [], [], []
    for number in range(count):
        token = Token.make(f"d{number}", milliseconds=number + 1, entropy=number + 1)
        directory = login.shared / f"deployments/d{number}" / str(token)
        (directory / "submit/go").mkdir(parents=True)
        (directory / "manifest.json").write_text('{"schema": "nemodeploy/manifest@1", "plan": {}}')
        (directory / "submit/sbatch.out").write_text(f"{100 + number}\n")
        (directory.parent / "active").symlink_to(str(token))
        (directory / "claim").symlink_to(str(100 + number))
        values = {"JobID": str(100 + number), "RestartCnt": "0", "Name": str(token), "WorkDir": str(directory)}
        values["State"] = "RUNNING"
        rows.append("".join(values.get(key, "").ljust(width) for key, width in _COLUMNS))
        told.append(f"job|{100 + number}|CANCELLED|$(id -u)|{directory}|{token}")
        tokens.append(token)
    (login.path / "row").write_text("\n".join(rows) + "\n")
    done = login.path / "cancelled"
    answers = "\n".join(f'[ ! -e {done}/{100 + number} ] || echo "{one}"' for number, one in enumerate(told))
    left = "\n".join(f"[ -e {done}/{100 + number} ] || printf '%s\\n' '{row}'" for number, row in enumerate(rows))
    done.mkdir()
    ids = f"for one; do case $one in [0-9]*) touch {done}/$one ;; --name=nd-d*) echo by name ;; esac; done"
    login.slurm(
        scancel=ids,
        squeue=f'case "$*" in *--jobs*)\n{answers}\n;; *)\n{left}\n;; esac',
        sacct=f'for one in $(ls {done}); do echo "$one|CANCELLED|another name"; done',
    )
    return tokens


def calls(login: Login, program: str) -> list[str]:
    return [line for line in (login.path / "calls").read_text().splitlines() if f"/{program} " in line]


def test_twenty_end_by_one_signal_and_one_question_a_round(login: Login) -> None:
    tokens = fleet(login, 20)
    (login.path / "calls").write_text("")
    site = login.site()
    results = down(site, login.ports(), living(site, None))
    assert {one: type(result) for one, result in results.items()} == dict.fromkeys(tokens, ending.Ended)
    assert len(calls(login, "scancel")) == 1
    assert len(calls(login, "squeue")) == 3, "what is up, what is left, and one proof for all"
    assert len(calls(login, "sacct")) == 2, "by name, and by id for those of another name"
    assert login.count < 12, "remote calls"
    assert sorted(path.name for path in (login.shared / "archive").iterdir()) == sorted(map(str, tokens))


def test_of_several_those_that_were_named_end(login: Login) -> None:
    tokens = fleet(login, 3)
    site = login.site()
    found = living(site, ("d0", "d2"))
    assert set(found.tokens) == {tokens[0], tokens[2]}
    down(site, login.ports(), found)
    assert living(site, None).tokens == (tokens[1],)


def test_what_cannot_be_proven_is_told_by_name(login: Login) -> None:
    tokens = fleet(login, 3)
    site = login.site()
    found = living(site, None)
    login.slurm(scancel="exit 0")
    results = down(site, login.ports(), Living(tokens=found.tokens, look=found.look))
    error = worst([one for one in results.values() if isinstance(one, OutcomeUnknown)])
    assert error is not None
    assert error.exit_code == 50
    assert "3 deployments are not proven gone" in error.message
    assert all(token.name in error.message for token in tokens)


def test_a_name_that_never_was_is_told_with_the_nearest(login: Login) -> None:
    accepted(login)
    site = login.site()
    archived = login.shared / "archive" / str(Token.make("chat-2", milliseconds=1, entropy=1))
    archived.mkdir(parents=True)
    login.ports().journal.note(Token.make("noted", milliseconds=1, entropy=1), cluster=site.cluster.name)
    seen = names_seen(site, login.ports())
    assert seen == {"demo", "chat-2", "noted"}
    check_names(("demo", "chat-2", "noted"), seen)
    with pytest.raises(BadInput, match="never was a deployment named 'dmo'") as caught:
        check_names(("demo", "dmo"), seen)
    assert "did you mean demo" in caught.value.hint


@pytest.mark.parametrize(("squeue", "untold"), [("exit 1", True), ("exit 0", False)])
def test_status_that_could_tell_no_state_is_no_success(login: Login, squeue: str, untold: bool) -> None:
    accepted(login)
    login.slurm(squeue=squeue, sacct=NO_ACCOUNTING)
    view = View(sites=[login.site()], broken=[], name=None, back_s=None, as_json=True, utc=True)
    answer = view.once()
    assert isinstance(answer, dict)
    assert answer["deployments"][0]["state"] == State.UNKNOWN.value
    assert view.untold is untold


def test_names_are_compared_whole(login: Login, tmp_path: Path) -> None:
    fleet(login, 1)
    assert living(login.site(), ("d0",)).tokens
    with pytest.raises(BadInput):
        check_names(("d",), names_seen(login.site(), login.ports()))
