"""Every transport keeps the same promises, tried against a real sshd."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paramiko
import pytest
import yaml

from nemodeploy.adapters.transports import paramiko_ssh
from nemodeploy.adapters.transports.base import OUTPUT_CAP, Transport
from nemodeploy.app.wanted import cluster
from nemodeploy.errors import ClusterUnreachable
from nemodeploy.sandbox.cluster import Sandbox
from nemodeploy.sandbox.configuration import SSH_ALIAS
from nemodeploy.sandbox.proxy import Proxy
from nemodeploy.values import Command

pytestmark = pytest.mark.sandbox


def run(transport: Transport, script: str, deadline_s: float = 30) -> tuple[int, str, str]:
    done = transport.run(Command(script=script, deadline_s=deadline_s))
    return done.status, done.stdout, done.stderr


def test_status_and_both_streams_come_back_apart(transport: Transport) -> None:
    assert run(transport, "echo out; echo err >&2; exit 3\n") == (3, "out\n", "err\n")


def test_the_text_is_run_by_a_posix_shell_in_the_c_locale(transport: Transport) -> None:
    status, out, _ = run(transport, "printf '%s' \"$0\"; cd /; sort --version >/dev/null && echo\n")
    assert status == 0
    assert out.strip().endswith("sh")


def test_an_answer_beyond_the_cap_is_said_to_be_cut(transport: Transport) -> None:
    flood = "head -c {} /dev/zero | tr '\\0' a; echo end\n"
    cut = transport.run(Command(script=flood.format(OUTPUT_CAP + 2_000_000), deadline_s=60))
    assert (cut.is_cut, cut.status, len(cut.stdout)) == (True, 0, OUTPUT_CAP)
    whole = transport.run(Command(script=flood.format(1_000_000), deadline_s=60))
    assert (whole.is_cut, whole.stdout[-5:]) == (False, "aend\n")


def test_a_text_may_be_long_and_hold_anything(transport: Transport) -> None:
    body = "é'\"$`\\ \t" * 20_000
    status, out, _ = run(transport, f"cat <<'EOF_1'\n{body}\nEOF_1\n")
    assert (status, out) == (0, body + "\n")


def test_two_full_streams_do_not_block_each_other(transport: Transport) -> None:
    script = "head -c 5000000 /dev/zero | tr '\\0' a & head -c 5000000 /dev/zero | tr '\\0' b >&2; wait\n"
    status, out, err = run(transport, script)
    assert (status, len(out), len(err)) == (0, 5_000_000, 5_000_000)


def test_a_command_that_hangs_is_given_up_at_its_deadline(transport: Transport) -> None:
    with pytest.raises(ClusterUnreachable, match="no answer within 1 s"):
        run(transport, "sleep 20\n", deadline_s=1)
    assert run(transport, "echo again\n")[1] == "again\n"


def test_output_is_capped_and_the_rest_thrown_away(transport: Transport) -> None:
    status, out, _ = run(transport, "head -c 40000000 /dev/zero | tr '\\0' a\n", deadline_s=60)
    assert status == 0
    assert 1_000_000 < len(out) <= 17 * 2**20


ECHO = """
import socket
s = socket.create_server(("127.0.0.1", 0))
print(s.getsockname()[1], flush=True)
c, _ = s.accept()
c.sendall(c.recv(9)[::-1])
"""


def test_a_tunnel_carries_bytes_to_where_the_login_host_reaches(
    transport: Transport, serve: Callable[[str], int]
) -> None:
    stream = transport.tunnel("127.0.0.1", serve(ECHO))
    stream.sendall(b"abc")
    assert stream.recv(9) == b"cba"
    stream.close()


def test_a_closed_port_is_unreachable(transport: Transport) -> None:
    with pytest.raises(ClusterUnreachable):
        transport.tunnel("127.0.0.1", 1)


def test_open_and_close_may_be_called_twice(transport: Transport) -> None:
    transport.open()
    transport.open()
    assert run(transport, "echo open\n")[1] == "open\n"
    transport.close()
    transport.close()
    assert run(transport, "echo again\n")[1] == "again\n"


def refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The login host forwards nothing."""
    real = paramiko.Transport.open_channel

    def open_channel(self: paramiko.Transport, kind: str, *words: Any, **more: Any) -> paramiko.Channel:
        if kind == "direct-tcpip":
            raise paramiko.ChannelException(1, "Administratively prohibited")
        return real(self, kind, *words, **more)

    monkeypatch.setattr(paramiko.Transport, "open_channel", open_channel)


def test_where_forwarding_is_forbidden_bytes_go_through_a_command(
    transport: Transport, serve: Callable[[str], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    refuses(monkeypatch)
    stream = transport.tunnel("127.0.0.1", serve(ECHO))
    stream.sendall(b"a\x00\xff")
    assert stream.recv(9) == b"\xff\x00a"
    stream.close()
    with pytest.raises(ClusterUnreachable):
        transport.tunnel("127.0.0.1", 1)


@pytest.fixture
def proxied(sandbox: Sandbox, tmp_path: Path) -> Iterator[tuple[paramiko_ssh.ParamikoTransport, Proxy]]:
    """By paramiko, through a proxy that can fall silent."""
    state = sandbox.state()
    assert state is not None
    proxy = Proxy(state.port)
    document = yaml.safe_load((sandbox.place.root / "cluster.yaml").read_text())
    document["ssh"] = {**document["ssh"], "host": SSH_ALIAS, "config": str(proxy.ssh_config(sandbox.place, tmp_path))}
    (tmp_path / "through.yaml").write_text(yaml.safe_dump(document))
    transport = paramiko_ssh.ParamikoTransport(cluster(str(tmp_path / "through.yaml")))
    yield transport, proxy
    transport.close()
    proxy.close()


def test_a_connection_that_falls_silent_is_noticed_long_before_the_deadline(
    proxied: tuple[paramiko_ssh.ParamikoTransport, Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paramiko_ssh, "KEEPALIVE_S", 0.5)
    monkeypatch.setattr(paramiko_ssh, "DEAD_AFTER_S", 3.0)
    transport, proxy = proxied
    assert run(transport, "sleep 5; echo slow\n")[1] == "slow\n", "an answer that takes its time is no silence"
    transport.close()
    proxy.arm(20_000, silent=True)
    with pytest.raises(ClusterUnreachable, match="silent for 3 s"):
        run(transport, f"true # {'x' * 40_000}\n", 90)
    assert run(transport, "echo again\n")[1] == "again\n"


def test_a_command_that_the_server_does_not_take_up_is_given_up(
    proxied: tuple[paramiko_ssh.ParamikoTransport, Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paramiko_ssh, "CONNECT_WITHIN_S", 2.0)
    transport, proxy = proxied
    proxy.arm(10**9, silent=True)
    transport.open()
    real = paramiko.Transport.open_session

    def then_silent(self: paramiko.Transport, *words: Any, **more: Any) -> paramiko.Channel:
        channel = real(self, *words, **more)
        proxy.left = 0
        return channel

    monkeypatch.setattr(paramiko.Transport, "open_session", then_silent)
    with pytest.raises(ClusterUnreachable, match="broke"):
        run(transport, "echo never\n", 90)
    monkeypatch.setattr(paramiko.Transport, "open_session", real)
    assert run(transport, "echo again\n")[1] == "again\n"
