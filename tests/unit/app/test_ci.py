"""What is taken from a CI system's variables, and whose things reap means."""

from __future__ import annotations

import re

import pytest

from nemodeploy.app import ci, reap
from nemodeploy.app.artifacts import collect
from nemodeploy.core.masking import lines_of
from nemodeploy.values import NAME, Secret
from tests.unit.app import test_site
from tests.unit.app.test_site import Login, accepted

login = test_site.login


@pytest.mark.parametrize(
    ("environment", "form"),
    [
        ({}, r"m-[0-9a-f]{6}"),
        ({"GITHUB_RUN_ID": "9871234567"}, r"m-9871234567-[0-9a-f]{6}"),
        ({"CI_JOB_ID": "77"}, r"m-77-[0-9a-f]{6}"),
        ({"BUILD_NUMBER": "../../x"}, r"m-[0-9a-f]{6}"),
        ({"BUILD_NUMBER": "9" * 30}, r"m-[0-9a-f]{6}"),
    ],
)
def test_a_name_of_its_own(environment: dict[str, str], form: str) -> None:
    first, second = (ci.name_of_its_own("m", environment) for _ in range(2))
    assert re.fullmatch(form, first)
    assert first != second
    assert NAME.fullmatch(ci.name_of_its_own("nemotron-4-340b-instruct-and-then-some-38", environment))


def test_whose_it_is() -> None:
    run = {"GITHUB_RUN_ID": "7", "GITHUB_SERVER_URL": "https://git.example.org", "GITHUB_REPOSITORY": "a/b"}
    assert ci.owner(run) == "https://git.example.org/a/b/actions/runs/7"
    assert ci.owner({"CI_PIPELINE_URL": "https://x/9", "BUILD_URL": "no"}) == "https://x/9"
    assert ci.owner({**run, "NEMODEPLOY_OWNER": "team"}) == "team"


@pytest.mark.parametrize(("owner", "meant"), [("me@here", True), ("me@*", True), ("you@*", False), ("me", False)])
def test_reap_takes_an_owner_or_the_beginning_of_one(login: Login, owner: str, meant: bool) -> None:
    token = accepted(login)
    login.row("77", "RUNNING", token)
    ports = login.ports()
    ports.journal.forget(token)
    found = [one.token for one in reap.survey(login.site(), ports, owner, older_than_s=9e9)]
    assert found == ([token] if meant else [])


def test_no_owner_means_everybody(login: Login) -> None:
    accepted(login)
    assert reap.survey(login.site(), login.ports(), "*", older_than_s=9e9) == []


def test_artifacts_hold_no_secret(login: Login) -> None:
    token = accepted(login)
    run = login.shared / "deployments/demo" / str(token) / "epochs/77.0"
    (run / "logs").mkdir(parents=True)
    (run.parents[1] / "current").symlink_to("epochs/77.0")
    (run / "logs/a.0.log").write_text("key=hunter2-long and hunter2, not ab\n")
    site = login.site()
    site.hidden = lines_of([Secret("hunter2"), Secret("hunter2-long"), Secret("ab")])
    found = collect(site, token, ranks=1)
    assert found["logs/a.0.log"].strip() == "key=******** and ********, not ab"
    assert '"digest"' in found["manifest.json"]
    assert "SUBMITTING" in found["events.jsonl"]
