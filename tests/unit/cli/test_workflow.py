"""Words for GitHub Actions, and none for anybody else."""

from __future__ import annotations

from pathlib import Path

import pytest

from nemodeploy.cli import workflow
from nemodeploy.errors import JobEnded


def test_an_error_is_one_command_whatever_is_in_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failure = JobEnded("100% of it\n::error::no", detail=("a\rb",), hint="this")
    workflow.error(failure)
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    workflow.error(failure)
    said = capsys.readouterr().err
    assert said == "::error title=nemodeploy exit 30::100%25 of it%0A::error::no%0Aab%0Atry this\n"


def test_a_summary_and_outputs_are_added_to_what_is_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, values = tmp_path / "page", tmp_path / "values"
    page.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    monkeypatch.setenv("GITHUB_OUTPUT", str(values))
    workflow.summary("it", [("a", "1")])
    assert page.read_text() == "before\n", "not on GitHub"
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    workflow.summary("it", [("a", "1|2\n3"), ("empty", "")])
    assert page.read_text() == "before\n### it\n\n| | |\n|---|---|\n| a | 1\\|2 3 |\n\n"
    workflow.outputs({"name": "x\ny=z"})
    assert values.read_text() == "name=x y=z\n"
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "no/where"))
    workflow.outputs({"name": "x"})
    assert "GITHUB_OUTPUT could not be written" in capsys.readouterr().err
