from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from nemodeploy.adapters import ssh_settings
from nemodeploy.core.cluster_files import decode_cluster
from nemodeploy.core.documents import Document
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


@pytest.mark.parametrize("client", ["ssh -G", "paramiko's parser"])
def test_paths_are_filled_as_ssh_fills_them(config: Path, monkeypatch: pytest.MonkeyPatch, client: str) -> None:
    if client != "ssh -G":
        monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setenv("ND_KEYS", str(config.parent))
    (config.parent / "alice-login.example.org").write_text("")
    (config.parent / "bob-2222-dgx.pub").write_text("ssh-ed25519 AAAA me")
    text = config.read_text().replace(f"IdentityFile {config.parent}/key", "IdentityFile ${ND_KEYS}/%r-%h")
    config.write_text(text)
    ssh = Ssh(hosts=("dgx",), config=str(config))
    assert ssh_settings.effective(ssh).key_files == (config.parent / "alice-login.example.org",)
    config.write_text(text.replace("%r-%h", "%r-%p-%n"))
    known = ssh_settings.effective(ssh, "bob@dgx")  # only its public half is there; the agent has the other
    assert (known.user, known.host) == ("bob", "login.example.org")
    assert known.key_files == (config.parent / "bob-2222-dgx",)
    config.write_text(text.replace("ND_KEYS", "ND_UNSET"))
    with pytest.raises(BadInput, match="ND_UNSET is not set"):
        ssh_settings.effective(ssh)


HOSTS = (
    "jump+cluster",
    "alice@dgx",
    "a.b@dgx",
    "::1",
    "fe80::1%eth0",
    "2001:db8::10.0.0.1",
    "10.0.0.1",
    "me@::1",
    "a=b",
)
NO_HOSTS = (
    "-oProxyCommand=x",
    "alice@-x",
    "-l@dgx",
    "a b",
    "a;b",
    "$(id)",
    "a`b",
    "a|b",
    "a\nb",
    "a/b",
    "[::1]",
    "",
    "@dgx",
)


@pytest.mark.parametrize("word", HOSTS)
def test_a_word_that_ssh_takes_is_a_host(word: str) -> None:
    assert decode_cluster("x", Document({"ssh": {"host": word}}, source="x")).ssh.hosts == (word,)


@pytest.mark.parametrize("word", NO_HOSTS)
def test_what_could_be_an_option_or_a_shells_is_no_host(word: str) -> None:
    with pytest.raises(BadInput):
        decode_cluster("x", Document({"ssh": {"host": word}}, source="x"))
