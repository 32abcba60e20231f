"""The short job of `doctor --job`: submitted once, and gone only when that is proven."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from nemodeploy.app.probing import look_at_nodes
from nemodeploy.app.site import Site
from nemodeploy.core.checks import Check
from nemodeploy.errors import ClusterUnreachable, OutcomeUnknown
from nemodeploy.values import Token
from tests.unit.app.test_site import Login, login

__all__ = ["login"]
Parts = Mapping[str, str]


def looked(login: Login) -> list[Check]:
    return list(look_at_nodes(login.site(), login.ports(), login.wanted, within_s=20.0))


def directory(login: Login) -> Path:
    (found,) = (login.shared / "deployments/doctor").glob("nd-doctor-*")
    return found


def at_each_question(monkeypatch: pytest.MonkeyPatch, before: Callable[[Parts], None]) -> None:
    ask = Site.ask

    def asked(self: Site, parts: Parts, **more: Any) -> Any:
        before(parts)
        return ask(self, parts, **more)

    monkeypatch.setattr(Site, "ask", asked)


def test_it_is_not_gone_while_sbatch_is_at_work(login: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection is cut as sbatch begins; the queue shows the job only later."""
    looks = 0

    def before(parts: Parts) -> None:
        nonlocal looks
        if "submit" in parts:
            (directory(login) / "submit/go").mkdir()
            raise ClusterUnreachable("cut")
        looks += "queue" in parts
        if "queue" in parts and looks == 3:
            login.count += 1
            (directory(login) / "submit/sbatch.out").write_text("77\n")
            (directory(login) / "submit/sbatch.rc").write_text("0\n")
            (login.path / "calls").write_text("sbatch\n")
            login.row("77", "PENDING", Token(directory(login).name))
            login.slurm(scancel=f": >{login.path}/row")

    at_each_question(monkeypatch, before)
    with pytest.raises(ClusterUnreachable, match="cut"):
        looked(login)
    assert looks > 3, "it was cancelled once it was listed, and looked for again"
    assert "scancel" in (login.path / "calls").read_text()
    assert not (login.shared / "deployments/doctor").exists()


def test_a_submission_that_comes_late_submits_nothing(login: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    late: list[str] = []

    def before(parts: Parts) -> None:
        if "submit" in parts:
            late.append(parts["submit"])
            raise ClusterUnreachable("cut")
        if "clean" in parts:
            subprocess.run(["sh", "-c", late[0]], check=False)

    at_each_question(monkeypatch, before)
    with pytest.raises(ClusterUnreachable, match="cut"):
        looked(login)
    subprocess.run(["sh", "-c", late[0]], check=False)
    assert login.submissions() == 0
    assert not (login.shared / "deployments/doctor").exists()


def test_without_a_word_of_sbatch_it_may_be_alive(login: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    def before(parts: Parts) -> None:
        if "submit" in parts:
            (directory(login) / "submit/go").mkdir()
            raise ClusterUnreachable("cut")

    at_each_question(monkeypatch, before)
    with pytest.raises(OutcomeUnknown, match="may be alive: sbatch has not said"):
        looked(login)
    assert directory(login).exists(), "what may be running has its files"


@pytest.mark.parametrize(
    ("sbatch", "said"),
    [
        ("echo 'sbatch: error: Batch job submission failed: Invalid account' >&2; exit 1", "it was not taken: "),
        ("exit 127", "it was not taken: "),
        ("echo 77; exit 1", "nothing after"),
    ],
)
def test_what_sbatch_says_is_read_as_for_a_deployment(login: Login, sbatch: str, said: str) -> None:
    login.slurm(sbatch=sbatch)
    (check,) = looked(login)
    assert said in check.says
    assert login.submissions() == 1
    assert not (login.shared / "deployments/doctor").exists()


@pytest.mark.parametrize("full", [False, True])
def test_files_that_cannot_be_written_are_told(login: Login, full: bool) -> None:
    login.shared.mkdir(exist_ok=True)
    if full:
        login.slurm(base64="echo 'no space left' >&2; exit 1")
    else:
        (login.shared / "deployments").write_text("a file")
    (check,) = looked(login)
    assert "its files cannot be written" in check.says
    assert login.submissions() == 0
    assert not (login.shared / "deployments/doctor").exists()
