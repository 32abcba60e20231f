from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from nemodeploy.adapters import ssh_settings
from nemodeploy.core.spec import Ssh
from nemodeploy.errors import BadInput

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
    found = ssh_settings.effective(Ssh(hosts=("dgx",), config=str(config)))
    assert (found.host, found.port, found.user) == ("login.example.org", 2222, "alice")
    assert found.key_files == (config.parent / "key",)
    assert config.parent / "known" in found.known_hosts or client != "ssh -G"
    assert found.identities_only


def test_the_cluster_files_own_words_win(config: Path) -> None:
    found = ssh_settings.effective(Ssh(hosts=("dgx",), config=str(config), user="bob", port=22))
    assert (found.user, found.port) == ("bob", 22)


@pytest.mark.parametrize("client", ["ssh -G", "paramiko's parser"])
def test_the_way_there_is_kept(config: Path, monkeypatch: pytest.MonkeyPatch, client: str) -> None:
    if client != "ssh -G":
        monkeypatch.setattr(shutil, "which", lambda name: None)
    ssh = Ssh(hosts=("behind",), config=str(config))
    assert ssh_settings.effective(ssh).jumps == ("dgx",)
    hop = ssh_settings.jump("bob@dgx:99", ssh)
    assert (hop.host, hop.user, hop.port) == ("login.example.org", "bob", 99)
    assert ssh_settings.jump("dgx", ssh).known_as == "[login.example.org]:2222"


@pytest.mark.parametrize("hop", ["a:b:c", "[a", "a:99999999999999x", ""])
def test_a_jump_host_that_cannot_be_read_is_bad_input(config: Path, hop: str) -> None:
    with pytest.raises(BadInput):
        ssh_settings.jump(hop, Ssh(hosts=("behind",), config=str(config)))


def test_agents_certificates_and_fido_keys_are_found(config: Path) -> None:
    (config.parent / "key.pub").write_text("sk-ssh-ed25519@openssh.com AAAA me")
    config.write_text(
        config.read_text() + f"    IdentityAgent {config.parent}/agent\n    CertificateFile ~/x-cert.pub\n"
    )
    config.write_text(config.read_text().replace("HostName inner", f"IdentityFile {config.parent}/key"))
    found = ssh_settings.effective(Ssh(hosts=("behind",), config=str(config)))
    assert found.agent == str(config.parent / "agent")
    assert found.only_openssh == ("CertificateFile ~/x-cert.pub", "key is a FIDO key")


def test_a_missing_configuration_is_bad_input() -> None:
    with pytest.raises(BadInput, match="does not exist"):
        ssh_settings.effective(Ssh(hosts=("dgx",), config="/nonexistent"))


def test_keys_that_do_not_exist_are_not_tried(config: Path) -> None:
    (config.parent / "key").unlink()
    assert ssh_settings.effective(Ssh(hosts=("dgx",), config=str(config))).key_files == ()
