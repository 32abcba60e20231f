"""Real sites' SSH: jump hosts, codes, agents, pinned and changed host keys, several login hosts, limits and noise.

Every clause for both transports that speak SSH, against real SSH servers.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nemodeploy.adapters.transports import choose, greeting, openssh_master, paramiko_login
from nemodeploy.adapters.transports.base import Transport
from nemodeploy.adapters.transports.openssh import OpenSshTransport
from nemodeploy.adapters.transports.openssh_master import Masters, start
from nemodeploy.adapters.transports.paramiko_ssh import ParamikoTransport
from nemodeploy.core.cluster_files import decode_cluster
from nemodeploy.core.documents import Document
from nemodeploy.core.spec import Cluster, Ssh
from nemodeploy.errors import AuthenticationFailed, BadInput, ClusterUnreachable, HostKeyRejected, PreflightFailed
from nemodeploy.values import Command
from tests.contract.sshd import keygen, sshd
from tests.contract.test_transports import ECHO, run

pytestmark = [pytest.mark.sandbox, pytest.mark.parametrize("by", ["paramiko", "openssh"])]
Reach = Callable[[Cluster], Transport]


@pytest.fixture
def masters(tmp_path_factory: pytest.TempPathFactory) -> Masters:
    return Masters(Path(f"/tmp/nd-test-{os.getpid()}"))


@pytest.fixture
def reach(by: str, masters: Masters, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reach]:
    """A transport of a cluster; ended afterwards."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    made: list[Transport] = []

    def one(cluster: Cluster) -> Transport:
        made.append(ParamikoTransport(cluster) if by == "paramiko" else OpenSshTransport(cluster, masters))
        return made[-1]

    yield one
    for transport in made:
        transport.close()


def echo(transport: Transport) -> int:
    """A port on the login host that turns around what it is sent."""
    script = f"out=$(mktemp); python3 - >\"$out\" 2>&1 <<'EOF' &\n{ECHO}\nEOF\n"
    script += 'until [ -s "$out" ]; do sleep 0.05; done; cat "$out"; rm "$out"\n'
    return int(transport.run(Command(script=script, deadline_s=20)).stdout.split()[-1])


def turns_around(transport: Transport) -> None:
    stream = transport.tunnel("127.0.0.1", echo(transport))
    stream.sendall(b"a\x00\xff")
    assert stream.recv(9) == b"\xff\x00a"
    stream.close()


def test_one_login_serves_everything(reach: Reach, tmp_path: Path) -> None:
    with sshd(tmp_path, MaxSessions="1") as door:
        transport = reach(door.cluster("auto"))
        for word in ("one", "two"):
            assert run(transport, f"echo {word}\n")[1] == f"{word}\n"
        turns_around(transport)
        assert door.logins() == 1


def test_jump_hosts_follow_one_another(reach: Reach, tmp_path: Path) -> None:
    with sshd(tmp_path, "first") as first, sshd(tmp_path, "second") as second, sshd(tmp_path, "door") as door:
        door.more("ProxyJump first,second")
        transport = reach(door.cluster("auto"))
        assert run(transport, "echo here\n")[1] == "here\n"
        turns_around(transport)
        assert [one.logins() for one in (first, second, door)] == [1, 1, 1]


def test_a_jump_host_that_forwards_nothing_is_named(reach: Reach, tmp_path: Path) -> None:
    with sshd(tmp_path, "first", AllowTcpForwarding="no"), sshd(tmp_path, "door") as door:
        door.more("ProxyJump first")
        with pytest.raises(ClusterUnreachable):
            reach(door.cluster("auto")).open()


def test_a_proxy_command_leads_there(reach: Reach, tmp_path: Path) -> None:
    with sshd(tmp_path, "first") as first, sshd(tmp_path, "door") as door:
        door.more(f"ProxyCommand ssh -F {first.config} -W %h:%p first 2>/dev/null")
        assert run(reach(door.cluster("auto")), "echo 100%\n")[1] == "100%\n"
        assert first.logins() == 1


def test_a_proxy_command_that_fails_is_unreachable(reach: Reach, tmp_path: Path) -> None:
    with sshd(tmp_path, "door") as door:
        door.more("ProxyCommand exit 3")
        began = time.monotonic()
        with pytest.raises(ClusterUnreachable):
            reach(door.cluster("auto")).open()
        assert time.monotonic() - began < 25


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL)
    while not path.exists():
        time.sleep(0.02)
    yield path
    process.terminate()
    process.wait()


def test_an_identity_agent_holds_the_key(reach: Reach, tmp_path: Path, agent: Path) -> None:
    with sshd(tmp_path) as door:
        subprocess.run(["ssh-add", "-q", str(door.key)], env={**os.environ, "SSH_AUTH_SOCK": str(agent)}, check=True)
        door.more(f"IdentityAgent {agent}")
        door.key.unlink()  # its public half says which one is meant
        (tmp_path / "client_key").write_text("")
        assert run(reach(door.cluster("auto")), "echo in\n")[1] == "in\n"


def test_a_key_behind_a_passphrase_is_named_when_nobody_can_say_it(reach: Reach, tmp_path: Path, by: str) -> None:
    with sshd(tmp_path) as door:
        subprocess.run(["ssh-keygen", "-q", "-p", "-N", "secret", "-f", str(door.key)], check=True, capture_output=True)
        with pytest.raises(AuthenticationFailed) as caught:
            reach(door.cluster("auto")).open()
        assert by == "openssh" or "without its passphrase" in caught.value.message


def test_a_login_shell_that_is_slow_to_start_is_thought_of(reach: Reach, tmp_path: Path) -> None:
    with sshd(tmp_path) as door:
        (door.login / ".bashrc").write_text("sleep 60\n")
        with pytest.raises(ClusterUnreachable, match="no answer within 1 s") as caught:
            reach(door.cluster("auto")).run(Command(script="echo here\n", deadline_s=1.0))
        assert "~/.bashrc" in caught.value.hint
        (door.login / ".bashrc").unlink()
        assert run(reach(door.cluster("auto")), "echo here\n")[1] == "here\n"


def test_a_refused_key_is_refused_once(reach: Reach, tmp_path: Path) -> None:
    with sshd(tmp_path) as door:
        keygen(tmp_path / "other")
        (door.home / "authorized_keys").write_text((tmp_path / "other.pub").read_text())
        with pytest.raises(AuthenticationFailed, match="refused to let us in"):
            reach(door.cluster("auto")).open()
        assert door.log.read_text().count("Connection from") <= 1


def test_a_code_that_nobody_can_say_fails_at_once(reach: Reach, tmp_path: Path) -> None:
    needs_root()
    with sshd(tmp_path, code="123456") as door:
        began = time.monotonic()
        with pytest.raises(AuthenticationFailed, match="no terminal to ask") as caught:
            reach(door.cluster("auto")).open()
        assert "nemodeploy login door" in caught.value.hint
        assert time.monotonic() - began < 10


def needs_root() -> None:
    if os.getuid():
        pytest.skip("PAM asks nobody but root's own sshd")


def test_a_host_key_that_is_unknown_or_changed_is_refused_before_anything_is_sent(reach: Reach, tmp_path: Path) -> None:
    with sshd(tmp_path) as door:
        known = tmp_path / "door.known"
        known.write_text(known.read_text().replace("[127.0.0.1]", "[127.0.0.2]"))
        with pytest.raises(HostKeyRejected, match="is unknown"):
            reach(door.cluster("auto")).open()
        other = keygen(tmp_path / "other_host_key")
        known.write_text(f"[127.0.0.1]:{door.port} {Path(f'{other}.pub').read_text()}")
        with pytest.raises(HostKeyRejected, match="not the recorded one") as caught:
            reach(door.cluster("auto")).open()
        assert "nemodeploy trust door" in caught.value.hint
        assert door.logins() == 0


def test_a_revoked_host_key_is_refused_and_odd_lines_are_passed_over(reach: Reach, tmp_path: Path) -> None:
    with sshd(tmp_path) as door:
        known = tmp_path / "door.known"
        good = known.read_text()
        known.write_text(f"# caf\u00e9\nother ssh-ed25519 AAAAC3!!!x\n{good}")
        assert run(reach(door.cluster("auto")), "echo in\n")[1] == "in\n"
        known.write_text(f"{good}@revoked * {door.host_key}\n")
        with pytest.raises(HostKeyRejected):
            reach(door.cluster("auto")).open()
        assert door.logins() == 1


def test_pinned_host_keys_are_the_only_ones(reach: Reach, tmp_path: Path) -> None:
    with sshd(tmp_path) as door:
        (tmp_path / "door.known").unlink()
        assert run(reach(door.cluster("auto", host_keys=(door.host_key,))), "echo pinned\n")[1] == "pinned\n"
        other = " ".join(Path(f"{keygen(tmp_path / 'other')}.pub").read_text().split()[:2])
        door.trust()
        with pytest.raises(HostKeyRejected):
            reach(door.cluster("auto", host_keys=(other,))).open()


def test_the_next_login_host_takes_over_when_one_dies(reach: Reach, tmp_path: Path) -> None:
    with sshd(tmp_path, "one") as one, sshd(tmp_path, "two") as two:
        transport = reach(one.cluster("auto", "two"))
        assert run(transport, "echo $SSH_CONNECTION\n")[1].split()[-1] == str(one.port)
        one.stop()
        with contextlib.suppress(ClusterUnreachable):  # unless its end was noticed before
            run(transport, "sleep 1; echo x\n")
        assert run(transport, "echo $SSH_CONNECTION\n")[1].split()[-1] == str(two.port)
        assert (one.logins(), two.logins()) == (1, 1)


def test_a_login_host_whose_key_is_wrong_is_not_passed_over(reach: Reach, tmp_path: Path) -> None:
    with sshd(tmp_path, "one") as one, sshd(tmp_path, "two") as two:
        (tmp_path / "one.known").write_text("")
        with pytest.raises(HostKeyRejected):
            reach(one.cluster("auto", "two")).open()
        assert two.logins() == 0


def test_where_forwarding_is_forbidden_bytes_go_through_a_command(reach: Reach, tmp_path: Path) -> None:
    with sshd(tmp_path, AllowTcpForwarding="no") as door:
        transport = reach(door.cluster("auto"))
        turns_around(transport)
        with pytest.raises(ClusterUnreachable):
            transport.tunnel("127.0.0.1", 1)


def test_a_command_that_passes_bytes_on_ends_when_the_far_end_does(reach: Reach, tmp_path: Path) -> None:
    with sshd(tmp_path, AllowTcpForwarding="no") as door:
        transport = reach(door.cluster("auto"))
        stream = transport.tunnel("127.0.0.1", echo(transport))
        stream.settimeout(10)
        stream.sendall(b"abc")
        said = b""
        while piece := stream.recv(9):
            said += piece
        assert said == b"cba"
        stream.close()


def test_noise_before_and_after_hides_no_status(reach: Reach, tmp_path: Path) -> None:
    noise = 'echo NOISE; echo NOISE >&2; eval "$SSH_ORIGINAL_COMMAND"; s=$?; echo LATE; exit $s'
    with sshd(tmp_path, ForceCommand=f"bash -c '{noise}'") as door:
        transport = reach(door.cluster("auto"))
        assert run(transport, "exit 3\n")[0] == 3
        turns_around(transport)


def test_ten_mebibytes_on_both_streams(reach: Reach, tmp_path: Path) -> None:
    with sshd(tmp_path) as door:
        flood = "head -c 10485760 /dev/zero | tr '\\0' {}"
        status, out, err = run(reach(door.cluster("auto")), f"{flood.format('a')} & {flood.format('b')} >&2; wait\n")
        assert (status, len(out), len(err)) == (0, 10485760, 10485760)


def test_what_login_has_opened_is_used_and_outlives_a_command(
    reach: Reach, tmp_path: Path, masters: Masters, by: str
) -> None:
    with sshd(tmp_path) as door:
        cluster = door.cluster("auto")
        path = masters.path(cluster, "door")
        start(cluster, "door", path, masters, person=False, keep_s=60)
        try:
            if by == "openssh":
                (door.home / "authorized_keys").write_text("")  # nobody else is let in
                for _ in range(2):
                    transport = reach(cluster)
                    assert run(transport, "echo kept\n")[1] == "kept\n"
                    turns_around(transport)
                    transport.close()
            assert masters.is_open(path, "door")
        finally:
            assert masters.end(path, "door")
        assert not masters.is_open(path, "door")


def test_what_only_openssh_can_do_is_said(tmp_path: Path, by: str) -> None:
    with sshd(tmp_path) as door:
        assert choose(door.cluster("auto")) == ("paramiko", "it can do all that the settings want")
        door.more(f"CertificateFile {tmp_path}/x-cert.pub")
        assert choose(door.cluster("auto"))[0] == "openssh"
        with pytest.raises(PreflightFailed, match="paramiko cannot do CertificateFile"):
            choose(door.cluster("paramiko"))
        assert choose(door.cluster(by if by == "openssh" else "local"))[1] == "the cluster file says so"


@pytest.mark.parametrize(
    ("patterns", "chosen"),
    [("[127.0.0.1]:*", "openssh"), ("*.corp.example", "paramiko"), ("[127.0.0.1]:*,![127.0.0.1]:PORT", "paramiko")],
)
def test_a_host_that_an_authority_vouches_for_is_reached_by_the_one_that_knows_certificates(
    reach: Reach, tmp_path: Path, by: str, patterns: str, chosen: str
) -> None:
    authority, certificate = tmp_path / "authority", tmp_path / "door" / "host_key-cert.pub"
    with sshd(tmp_path, HostCertificate=str(certificate)) as door:
        door.stop()
        keygen(authority)
        words = ["ssh-keygen", "-q", "-s", str(authority), "-I", "door", "-h", "-n", "127.0.0.1"]
        subprocess.run([*words, str(door.home / "host_key.pub")], check=True)
        door.start()
        key = authority.with_suffix(".pub").read_text()
        known = tmp_path / "door.known"
        known.write_text(f"@cert-authority {patterns.replace('PORT', str(door.port))} {key}")
        assert choose(door.cluster("auto"))[0] == chosen
        if chosen == "paramiko":
            return
        if by == "openssh":
            assert run(reach(door.cluster("auto")), "echo in\n")[1] == "in\n"
        else:
            with pytest.raises(HostKeyRejected):
                reach(door.cluster("auto")).open()
        with pytest.raises(PreflightFailed, match="paramiko cannot do host certificates"):
            choose(door.cluster("paramiko"))
        known.write_text(f"{known.read_text()}[127.0.0.1]:{door.port} {door.host_key}\n")
        assert choose(door.cluster("auto"))[0] == "paramiko", "it is known by its key, too"


def test_a_jump_host_behind_itself_is_told_and_nothing_is_started(reach: Reach, tmp_path: Path) -> None:
    with sshd(tmp_path, "first") as first, sshd(tmp_path, "door") as door:
        first.more("ProxyJump door")
        door.more("ProxyJump first")
        with pytest.raises(BadInput, match="leads in a circle"):
            reach(door.cluster("auto")).open()
        assert (first.logins(), door.logins()) == (0, 0)


STUBBORN = """
import os, signal, socket, sys, threading
signal.signal(signal.SIGHUP, signal.SIG_IGN)
open(sys.argv[3], "a").write(f"{os.getpid()}\\n")
s = socket.create_connection(sys.argv[1:3])
threading.Thread(target=lambda: [os.write(1, d) for d in iter(lambda: s.recv(9999), b"")], daemon=True).start()
[s.sendall(d) for d in iter(lambda: os.read(0, 9999), b"")]
signal.pause()
"""


def test_no_proxy_command_is_left(reach: Reach, tmp_path: Path, by: str) -> None:
    (tmp_path / "stubborn").write_text(STUBBORN.replace("SIGHUP, signal.SIG_IGN", "SIGUSR1, signal.SIG_IGN"))
    if by == "paramiko":  # ssh itself leaves one that heeds no SIGHUP
        (tmp_path / "stubborn").write_text(STUBBORN)
    with sshd(tmp_path) as door:
        command = f"python3 {tmp_path}/stubborn %h %p {tmp_path}/pids"
        door.more(f"ProxyCommand sh -c '{command}; true'" if by == "paramiko" else f"ProxyCommand {command}")
        for _ in range(3):
            transport = reach(door.cluster("auto"))
            assert run(transport, "echo in\n")[1] == "in\n"
            transport.close()
        left = (tmp_path / "pids").read_text().split()
        assert len(left) == 3
        deadline = time.monotonic() + 10
        while any(map(_lives, left)):
            assert time.monotonic() < deadline, left
            time.sleep(0.02)


def _lives(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("greets", "says"),
    [
        ("nothing", r"127\.0\.0\.1 port \d+ accepted the connection, but sent no SSH banner within 1 s"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", r"port \d+ is no SSH server: it sent 'HTTP/1.1 400 Bad Request'"),
        (b"220 mail\x1b[31m ESMTP\r\n", r"port \d+ is no SSH server"),
        (b"", r"port \d+ closed the connection before its SSH banner"),
        ("refuses", r"port \d+: it refused the connection"),
        ("no name", r"no-such-host.invalid port \d+: no address is known for that name"),
    ],
)
def test_what_is_no_ssh_server_is_told(
    reach: Reach, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, greets: object, says: str
) -> None:
    for module, name in ((greeting, "BANNER_WITHIN_S"), (paramiko_login, "CONNECT_WITHIN_S")):
        monkeypatch.setattr(module, name, 1)
    at = openssh_master.ALWAYS.index("ConnectTimeout=20")
    monkeypatch.setattr(
        openssh_master, "ALWAYS", (*openssh_master.ALWAYS[:at], "ConnectTimeout=1", *openssh_master.ALWAYS[at + 1 :])
    )
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as taken:
        one = Ssh(
            hosts=("no-such-host.invalid" if greets == "no name" else "127.0.0.1",), config=str(tmp_path / "config")
        )
        (tmp_path / "config").write_text(f"Host *\n    Port {listener.getsockname()[1]}\n")

        def greet() -> None:
            with contextlib.suppress(OSError):
                while True:
                    near = taken.enter_context(listener.accept()[0])
                    if not isinstance(greets, bytes):
                        continue
                    near.recv(100)
                    near.sendall(greets)
                    near.shutdown(socket.SHUT_RDWR)

        if greets == "refuses":
            listener.close()
        else:
            threading.Thread(target=greet, daemon=True).start()
        cluster = decode_cluster("door", Document({"ssh": {"host": one.hosts[0], "config": one.config}}, source="x"))
        with pytest.raises(ClusterUnreachable, match=says) as caught:
            reach(cluster).open()
        assert "check" in caught.value.hint or "try again" in caught.value.hint
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def test_who_finds_an_old_connection_dead_leaves_the_new_one(reach: Reach, tmp_path: Path) -> None:
    with sshd(tmp_path) as door:
        transport = reach(door.cluster("auto"))
        assert isinstance(transport, (ParamikoTransport, OpenSshTransport))
        old = transport._connected()
        transport.close()
        assert run(transport, "echo new\n")[1] == "new\n"
        transport._drop(old)  # type: ignore[arg-type]
        assert run(transport, "echo still\n")[1] == "still\n"
        assert door.logins() == 2


def test_a_passphrase_is_asked_for_once_and_by_the_main_thread_only(
    tmp_path: Path, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if by == "openssh":
        pytest.skip("ssh asks by itself")
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    asked: list[str] = []

    def ask(heading: str, prompts: Sequence[tuple[str, bool]]) -> list[str]:
        asked.append(heading + prompts[0][0])
        return ["secret"]

    with sshd(tmp_path) as door:
        subprocess.run(["ssh-keygen", "-q", "-p", "-N", "secret", "-f", str(door.key)], check=True, capture_output=True)
        transport = ParamikoTransport(door.cluster("auto"), ask, ask)
        with ThreadPoolExecutor(1) as other:
            with pytest.raises(AuthenticationFailed, match="without its passphrase"):
                other.submit(transport.open).result()
            assert asked == []
            transport.open()
            transport.close()
            other.submit(transport.open).result()
        transport.close()
        assert len(asked) == 1


def test_the_way_out_that_init_names_works_before_there_is_a_cluster_file(tmp_path: Path, by: str) -> None:
    def told(*words: str) -> tuple[int, str]:
        environment = {
            **os.environ,
            "XDG_CONFIG_HOME": str(tmp_path / "cfg"),
            "XDG_STATE_HOME": str(tmp_path / "state"),
        }
        command = [sys.executable, "-m", "nemodeploy", *words]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
        return done.returncode, done.stdout + done.stderr

    with sshd(tmp_path) as door:
        (tmp_path / "door.known").write_text("")
        words = ("init", "door", "--ssh-config", str(door.config), "--transport", by, "--yes")
        status, said = told(*words)
        assert status == HostKeyRejected.exit_code
        named = re.search(r"nemodeploy (trust .*?)   shows", said)
        assert named, said
        status, said = told(*shlex.split(named[1]))
        assert (status, "SHA256:" in said) == (HostKeyRejected.exit_code, True)
        further = re.search(r"nemodeploy (trust .*?)   once the site", said)
        assert further, said
        status, said = told(*shlex.split(further[1]))
        assert (status, "recorded in" in said) == (0, True), said
        assert told(*words, "--name", "mine")[0] != HostKeyRejected.exit_code
        assert door.logins() >= 1
        status, said = told("trust", "dooor")
        assert (status, "dooor" in said) == (2, True)
