"""`login`, `logout` and `trust`, and codes that are asked for on a terminal, against real SSH servers."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
import yaml

from tests.conftest import Home
from tests.contract.sshd import Sshd, keygen, sshd
from tests.terminal import terminal

pytestmark = pytest.mark.sandbox
CODE = "271828"
needs_pam = pytest.mark.skipif(os.getuid() != 0, reason="PAM asks nobody but root's own sshd")


def cluster_file(home: Home, door: Sshd, **ssh: object) -> str:
    """A cluster named door that is reached by this server."""
    path = home.config / "clusters/door.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "ssh": {"host": door.alias, "config": str(door.config), **ssh},
        "scheduler": "none",
        "runtime": "none",
        "root": str(home.path / "root"),
    }
    path.write_text(yaml.safe_dump(document))
    return "door"


@needs_pam
def test_one_code_for_a_login_and_none_for_what_comes_after_it(home: Home, tmp_path: Path) -> None:
    with sshd(tmp_path / "ssh", code=CODE) as door:
        name = cluster_file(home, door)
        refused = home.run("status", "--cluster", name)
        assert (refused.returncode, "nemodeploy login door" in refused.stderr) == (10, True), refused.stderr
        with terminal(home.environment, "login", name) as login:
            login.until("assword:")
            login.types(f"{CODE}\n")
            login.until("logged in to door")
            assert login.ended() == 0
        try:
            for _ in range(2):
                done = home.run("status", "--cluster", name)
                assert done.returncode == 0, done.stderr
            assert home.run("login", name).stdout.startswith("door is logged in to already")
            said = home.run("status", "--cluster", name, "-v").stderr
            assert "by openssh: nemodeploy login has opened a connection" in said
        finally:
            out = home.run("logout", name)
        assert (out.returncode, out.stdout) == (0, "logged out of door (door)\n")
        assert home.run("status", "--cluster", name).returncode == 10
        assert home.run("logout", name).stdout == "door was not logged in to\n"


@needs_pam
@pytest.mark.parametrize("transport", ["paramiko", "openssh"])
def test_on_a_terminal_a_command_asks_for_the_code_once(home: Home, tmp_path: Path, transport: str) -> None:
    with sshd(tmp_path / "ssh", code=CODE) as door:
        path = home.config / f"clusters/{cluster_file(home, door)}.yaml"
        path.write_text(path.read_text() + f"transport: {transport}\n")
        with terminal(home.environment, "status", "--cluster", "door") as status:
            status.until("assword:")
            status.types(f"{CODE}\n")
            assert status.ended() == 0
            assert "assword" not in status.seen
        with terminal(home.environment, "status", "--cluster", "door") as status:
            status.until("assword:")
            status.types("wrong\n")
            assert status.ended() == 10
            assert "assword" not in status.seen, "a refused code is not asked for again"


def test_a_host_key_is_shown_compared_and_recorded(home: Home, tmp_path: Path) -> None:
    with sshd(tmp_path / "ssh") as door:
        name, known = cluster_file(home, door), tmp_path / "ssh/door.known"
        assert home.run("trust", name).returncode == 0
        known.write_text("other.example.org ssh-ed25519 AAAA\n# kept\n")
        refused = home.run("status", "--cluster", name)
        assert (refused.returncode, "nemodeploy trust door" in refused.stderr) == (10, True), refused.stderr
        shown = home.run("trust", name, "--json")
        assert shown.returncode == 10
        (key,) = json.loads(shown.stdout)["keys"]
        assert (key["state"], key["line"]) == ("unknown", door.host_key)
        assert home.run("trust", name, "--fingerprint", "SHA256:other").returncode == 2
        assert home.run("trust", name, "--fingerprint", f"SHA256:{'A' * 43}").returncode == 10
        with terminal(home.environment, "trust", name) as trust:
            trust.until("that the site publishes")
            trust.types("y\n")
            trust.until("recorded in")
            assert trust.ended() == 0
        assert known.read_text().splitlines()[:2] == ["other.example.org ssh-ed25519 AAAA", "# kept"]
        assert home.run("status", "--cluster", name).returncode == 0


def test_a_changed_host_key_is_told_and_replaced_by_its_fingerprint_only(home: Home, tmp_path: Path) -> None:
    with sshd(tmp_path / "ssh") as door:
        name, known = cluster_file(home, door), tmp_path / "ssh/door.known"
        other = " ".join(Path(f"{keygen(tmp_path / 'other')}.pub").read_text().split()[:2])
        known.write_text(f"[127.0.0.1]:{door.port} {other}\n")
        said = home.run("trust", name)
        assert (said.returncode, "is changed, and nothing was recorded" in said.stderr) == (10, True), said.stderr
        fingerprint = next(word for word in said.stdout.split() if word.startswith("SHA256:"))
        assert home.run("trust", name, "--fingerprint", fingerprint).returncode == 0
        assert home.run("trust", name, "--fingerprint", f"SHA256:{'A' * 43}").returncode == 10, "it is not the one"
        assert known.read_text().split()[1:] == door.host_key.split()
        cluster_file(home, door, host_keys=[other])
        pinned = home.run("trust", name, "--fingerprint", fingerprint)
        assert (pinned.returncode, "pins other keys" in pinned.stderr) == (10, True), pinned.stderr


@pytest.mark.parametrize("kind", ["none", "device", "pipe"])
def test_where_no_key_can_be_recorded_it_is_said_and_nothing_is_replaced(home: Home, tmp_path: Path, kind: str) -> None:
    with sshd(tmp_path / "ssh") as door:
        name, known = cluster_file(home, door), tmp_path / "ssh/door.known"
        known.unlink()
        if kind == "device" and os.getuid():
            pytest.skip("only root makes device files")
        if kind == "none":
            settings = door.home / "ssh_config"
            settings.write_text(settings.read_text().replace(str(known), "none"))
        else:
            os.mknod(known, 0o600 | (stat.S_IFIFO if kind == "pipe" else stat.S_IFCHR), os.makedev(1, 3))
        shown = home.run("trust", name, "--json")
        (key,) = json.loads(shown.stdout)["keys"]
        done = home.run("trust", name, "--fingerprint", key["fingerprint"])
        where = "/dev/null" if kind == "none" else known
        said = f"nothing can be recorded in {where}: it is not a regular file"
        assert (done.returncode, said in done.stderr) == (12, True), done.stderr
        assert f"host_keys: {json.dumps([door.host_key])}" in done.stderr
        assert kind == "none" or not known.is_file()
        cluster_file(home, door, host_keys=[door.host_key])
        assert home.run("trust", name).returncode == 0, "what was advised works"


def test_login_to_what_keeps_no_connection_is_refused(home: Home, tmp_path: Path) -> None:
    door = Sshd(tmp_path / "ssh", "door", {})
    path = home.config / f"clusters/{cluster_file(home, door)}.yaml"
    for transport, code in (("paramiko", 12), ("local", 12), ("auto", 11)):
        path.write_text(path.read_text().split("transport")[0] + f"transport: {transport}\n")
        assert home.run("login", "door").returncode == code
    assert home.run("trust", "door").returncode == 11
    assert home.run("trust", "nobody").returncode == 2
