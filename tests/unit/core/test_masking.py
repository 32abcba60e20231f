from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from nemodeploy.core.masking import FORGET_SECRETS, MASK_FUNCTION, hide, lines_of
from nemodeploy.values import Secret

ENV = """\
HF_TOKEN=hf_canary
PASSWORD='it'"'"'s a \\secret. [x]*'
KEY='first line
second = line'
SHORT=abc
STARS='****'
"""
TEXT = "a hf_canary, hf_canary\nit's a \\secret. [x]*\nfirst line and second = line\nabc its a secret ****\n"
MASKED = "a ******** , ******** \n********            \n********   and ********     \nabc its a secret ****\n"


def test_every_line_of_a_secret_is_hidden_and_short_ones_are_not() -> None:
    hidden = lines_of([Secret("hf_canary"), Secret("one line\ntwo lines"), Secret("abc"), Secret("")])
    assert hide("hf_canary one line|two lines abc", hidden) == "******** ********|******** abc"


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_the_cluster_hides_what_stands_in_secrets_env(tmp_path: Path, shell: str) -> None:
    (tmp_path / "secrets.env").write_text(ENV)
    done = subprocess.run(
        [shell, "-c", f"{MASK_FUNCTION}\nmask"], input=TEXT, capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.stdout, done.returncode) == (MASKED, 0)
    plain = subprocess.run(
        [shell, "-c", f"{MASK_FUNCTION}\nmask"], input="x\n", capture_output=True, text=True, cwd=tmp_path
    )
    assert (plain.stdout, plain.returncode) == ("x\n", 9)
    (tmp_path / "secrets.env").unlink()
    bare = subprocess.run(
        [shell, "-c", f"{MASK_FUNCTION}\nmask"], input=TEXT, capture_output=True, text=True, cwd=tmp_path
    )
    assert bare.stdout == TEXT


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_what_has_ended_keeps_no_secret_and_its_logs_keep_their_places(tmp_path: Path, shell: str) -> None:
    logs = tmp_path / "epochs/7.0/logs"
    logs.mkdir(parents=True)
    (tmp_path / "secrets.env").write_text(ENV)
    (logs / "a.0.log").write_text(TEXT)
    (logs / "a.1.log").write_text("nothing")
    (logs / "a.2.log").write_text("hf_canary\n\nhalf a hf_canary")
    (tmp_path / "slurm-7.log").write_text("hf_canary\n")
    subprocess.run([shell, "-c", FORGET_SECRETS], check=True, cwd=tmp_path)
    assert (logs / "a.0.log").read_text() == MASKED
    assert (logs / "a.1.log").read_text() == "nothing", "what shows none stays byte for byte"
    assert (logs / "a.2.log").read_text() == "******** \n\nhalf a ******** "
    assert (tmp_path / "slurm-7.log").read_text() == "******** \n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epochs", "slurm-7.log"]


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_a_log_that_is_masked_is_never_shorter_in_between(tmp_path: Path, shell: str) -> None:
    (tmp_path / "secrets.env").write_text(ENV)
    (tmp_path / "slurm-7.log").write_text(TEXT)
    watched = 'cat() { wc -c <slurm-7.log >>sizes; command cat "$@"; }\n'
    subprocess.run([shell, "-c", watched + FORGET_SECRETS], check=True, cwd=tmp_path)
    assert set((tmp_path / "sizes").read_text().split()) == {str(len(TEXT))}
    assert (tmp_path / "slurm-7.log").read_text() == MASKED
