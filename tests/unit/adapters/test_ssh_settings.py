from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from nemodeploy.adapters import ssh_settings
from nemodeploy.core.spec import Ssh
from nemodeploy.errors import BadInput, PreflightFailed

CONFIG = """
Host dgx
    HostName login.example.org
    Port 2222
    User alice
    IdentityFile {key}
    IdentitiesOnly yes
    UserKnownHostsFile {known}
Host behind
    HostName inner
    ProxyJump dgx
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "key").write_text("")
    (tmp_path / "known").write_text("")
    path = tmp_path / "config"
    path.write_text(CONFIG.format(key=tmp_path / "key", known=tmp_path / "known"))
    return path


@pytest.mark.parametrize("client", ["ssh -G", "paramiko's parser"])
def test_an_alias_is_resolved(config: Path, monkeypatch: pytest.MonkeyPatch, client: str) -> None:
    if client != "ssh -G":
        monkeypatch.setattr(shutil, "which", lambda name: None)
    found = ssh_settings.effective(Ssh(host="dgx", config=str(config)))
    assert (found.host, found.port, found.user) == ("login.example.org", 2222, "alice")
    assert found.key_files == (config.parent / "key",)
    assert config.parent / "known" in found.known_hosts or client != "ssh -G"
    assert found.identities_only


def test_the_cluster_files_own_words_win(config: Path) -> None:
    found = ssh_settings.effective(Ssh(host="dgx", config=str(config), user="bob", port=22))
    assert (found.user, found.port) == ("bob", 22)


def test_a_jump_host_is_refused_with_a_clear_word(config: Path) -> None:
    with pytest.raises(PreflightFailed, match="proxyjump dgx, which is not supported yet"):
        ssh_settings.effective(Ssh(host="behind", config=str(config)))


def test_a_missing_configuration_is_bad_input() -> None:
    with pytest.raises(BadInput, match="does not exist"):
        ssh_settings.effective(Ssh(host="dgx", config="/nonexistent"))


def test_keys_that_do_not_exist_are_not_tried(config: Path) -> None:
    (config.parent / "key").unlink()
    assert ssh_settings.effective(Ssh(host="dgx", config=str(config))).key_files == ()
