"""What a login has set, defined or exported reaches none of our shell text; and each login shell can start it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from nemodeploy.adapters.transports.base import remote_line, shell
from nemodeploy.core import observation, run_directory
from nemodeploy.core.submission import receipt_script, take_script
from nemodeploy.schedulers.slurm_questions import queue_script
from nemodeploy.values import Token

TOKEN = Token.make("demo", milliseconds=1, entropy=2)
# Words that our texts use, as a start-up file may define them for a person.
FUNCTIONS = (
    "cd",
    "echo",
    "printf",
    "squeue",
    "readlink",
    "mkdir",
    "unset",
    "exec",
    "env",
    "command",
    "compgen",
    "head",
    "test",
)
SPOILT = "builtin echo spoilt; builtin cd / 2>/dev/null; return 7"


def hostile(path: Path) -> dict[str, str]:
    """An environment in which every one of these is a function, and options and start-up files are set."""
    start_up = path / "start-up"
    start_up.write_text("echo start-up\ncd() { echo spoilt; }\n")
    spoilt = {f"BASH_FUNC_{name}%%": f"() {{ {SPOILT}\n}}" for name in FUNCTIONS}
    more = {"BASH_ENV": str(start_up), "ENV": str(start_up), "CDPATH": "/", "IFS": "/", "GLOBIGNORE": "*"}
    options = {"SHELLOPTS": "errexit:noglob:nounset:xtrace", "BASHOPTS": "nullglob:failglob", "GREP_OPTIONS": "-v"}
    return {**os.environ, **spoilt, **more, **options}


@pytest.fixture(params=["sh", "bash as sh"])
def words(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, ...]:
    """How our text is started, also where sh is bash, as on every login host of the RHEL family."""
    if request.param == "sh":
        return shell()
    link = tmp_path / "sh"
    link.symlink_to(shutil.which("bash") or "/bin/bash")
    return tuple(word.replace("/bin/sh", str(link)) for word in shell())


def run(words: tuple[str, ...], script: str, environment: Mapping[str, str]) -> str:
    done = subprocess.run(words, input=script, capture_output=True, text=True, check=False, env=environment)
    assert "spoilt" not in done.stdout + done.stderr
    assert "start-up" not in done.stdout + done.stderr
    return done.stdout


def test_nothing_of_a_login_is_left_in_our_shell(words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    script = f"""\
cd {tmp_path}; pwd; echo *b; printf '%s\\n' "$-"
set -- $(echo one two); echo $#
bash -c 'echo inner; echo *b'
env | grep -c BASH_FUNC
echo "last"
"""
    lines = run(words, script, hostile(tmp_path)).splitlines()
    assert lines[:2] == [str(tmp_path), "a b"]
    assert not set("efux") & set(lines[2]), "no options of the login's"
    assert lines[3:] == ["2", "inner", "a b", "0", "last"]


def test_what_is_up_is_found_whatever_a_login_has_defined(words: tuple[str, ...], tmp_path: Path) -> None:
    root = tmp_path / "root"
    directory = root / "deployments/demo" / str(TOKEN)
    (directory / "submit/go").mkdir(parents=True)
    (directory / "manifest.json").write_text("{}")
    (directory.parent / "active").symlink_to(str(TOKEN))
    text = run(words, run_directory.list_script(str(root)), hostile(tmp_path))
    assert text.partition("\n")[0] == f"{root}/deployments"
    assert [(one.token, one.submitted) for one in observation.parse_list(text)] == [(TOKEN, True)]


def test_the_queue_is_asked_whatever_a_login_has_defined(words: tuple[str, ...], tmp_path: Path) -> None:
    program = tmp_path / "bin/squeue"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho '77 {TOKEN}'\n")
    program.chmod(0o755)
    path = {"PATH": f"{program.parent}:{os.environ['PATH']}"}
    assert run(words, queue_script("/nowhere"), {**hostile(tmp_path), **path}) == f"77 {TOKEN}\nsqueue 0\n"


def test_a_submission_is_made_once_whatever_a_login_has_defined(words: tuple[str, ...], tmp_path: Path) -> None:
    root = tmp_path / "root"
    files = {"submit.sh": f"echo 77; echo once >>{tmp_path}/submitted\n"}
    receipt = receipt_script(f"{root}/deployments/demo/{TOKEN}", TOKEN)
    script = f"({take_script(str(root), TOKEN, files, None)})\n({receipt})\n"
    assert "by us\n0\nout\n77\n" in run(words, script, hostile(tmp_path))
    assert (tmp_path / "submitted").read_text() == "once\n"


@pytest.mark.parametrize("login", ["sh", "bash", "dash", "zsh", "tcsh", "fish"])
def test_each_login_shell_starts_our_text(login: str, tmp_path: Path) -> None:
    program = shutil.which(login)
    if program is None:
        pytest.skip(f"{login} is not installed")
    line = remote_line()
    script = f"cd {tmp_path}; pwd; echo \"$(echo 'it is' $((1 + 1)))\"; exit 3\n"
    home = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    done = subprocess.run([program, "-c", line], input=script, capture_output=True, text=True, check=False, env=home)
    assert (done.returncode, done.stdout) == (3, f"{tmp_path}\nit is 2\n"), done.stderr
