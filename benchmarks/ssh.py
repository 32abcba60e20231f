"""What commands cost in SSH: logins, remote calls and bytes of up, status and down by each transport; one call alone.

A proxy before the sandbox's login host counts connections and bytes; the client's own log counts remote calls. Then the
shortest command there is, over a connection that is kept, alternately by paramiko and by a client of ssh's own kept
connection (ControlMaster), which is what a script would use: the same words to the same shell, in a home without
start-up files.

Goals: one login a command, at most 6 remote calls of `up` until the job is submitted, one of `status`; a call by
paramiko takes at most half of one over ssh's kept connection.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import yaml
from common import Bench, Sandboxed, arguments

from nemodeploy.adapters import yaml_files
from nemodeploy.adapters.transports.base import Transport
from nemodeploy.adapters.transports.openssh import OpenSshTransport
from nemodeploy.adapters.transports.openssh_master import Masters
from nemodeploy.adapters.transports.paramiko_ssh import SHELL, ParamikoTransport
from nemodeploy.core.cluster_files import decode_cluster
from nemodeploy.sandbox.cluster import Sandbox
from nemodeploy.sandbox.configuration import SSH_ALIAS
from nemodeploy.sandbox.proxy import Proxy
from nemodeploy.values import Command

TRANSPORTS = ("paramiko", "openssh")
COMMANDS = (("up", ("up", "--profile", "cpu")), ("status", ("status",)), ("down", ("down", "tiny")))


def said(bench: Sandboxed, *words: str) -> str:
    """What a command that succeeds says on stderr, remote calls included."""
    done = subprocess.run(
        [sys.executable, "-m", "nemodeploy", *words, "-v"],
        env=bench.environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stderr


def calls(text: str) -> int:
    """How many remote calls a log tells of."""
    return sum(line.strip().startswith("asked ") for line in text.splitlines())


def commands(bench: Sandboxed, report: Bench) -> None:
    """Logins, calls and bytes of each command by each transport."""
    state = Sandbox(bench.place).state()
    if state is None:
        raise RuntimeError("the sandbox is not up")
    path = Path(bench.environment["XDG_CONFIG_HOME"]) / "nemodeploy/clusters/sandbox.yaml"
    document = yaml.safe_load(path.read_text())
    for transport in TRANSPORTS:
        proxy = Proxy(state.port)
        config = proxy.ssh_config(bench.place, bench.home)
        ssh = {**document["ssh"], "host": SSH_ALIAS, "config": str(config)}
        path.write_text(yaml.safe_dump({**document, "ssh": ssh, "transport": transport}))
        for name, words in COMMANDS:
            connections, passed = proxy.connections, proxy.passed
            text = said(bench, *words)
            logins, kilobytes = proxy.connections - connections, (proxy.passed - passed) / 1000
            before, submitted, _ = text.partition("submitted")
            count = calls(before) if submitted else calls(text)
            about = f"{name} by {transport}"
            report.figure(f"{name}_{transport}_logins", logins, f"logins, {about}")
            report.figure(f"{name}_{transport}_calls", count, f"calls, {about}{', until submitted' * bool(submitted)}")
            report.figure(f"{name}_{transport}_kb", round(kilobytes, 1), f"kB both ways, {about}")
            report.goal(f"{about}: one login", logins == 1)
            if name != "down":
                most = 6 if name == "up" else 1
                report.goal(f"{about}: at most {most} calls", count <= most)
        proxy.close()


def one_call(bench: Sandboxed, count: int) -> tuple[float, float]:
    """Milliseconds of the shortest command over a connection that is kept: by paramiko, by a client of ssh's."""
    cluster = decode_cluster("sandbox", yaml_files.load(bench.place.root / "cluster.yaml"))
    found: dict[str, list[float]] = {"paramiko": [], "ssh": []}
    with tempfile.TemporaryDirectory(prefix="nd-") as directory:
        os.chmod(directory, 0o700)  # noqa: PTH101
        masters = Masters(Path(directory))
        paramiko, openssh = ParamikoTransport(cluster), OpenSshTransport(cluster, masters)
        both: tuple[Transport, Transport] = (paramiko, openssh)
        for transport in both:
            transport.open()
        (socket,) = Path(directory).iterdir()
        words = ["ssh", "-F", str(bench.place.ssh_config), "-S", str(socket), SSH_ALIAS, SHELL]
        for _ in range(count):
            begun = time.perf_counter()
            paramiko.run(Command(script=":\n", deadline_s=20))
            middle = time.perf_counter()
            subprocess.run(words, input=b":\n", capture_output=True, check=True)
            found["paramiko"].append(middle - begun)
            found["ssh"].append(time.perf_counter() - middle)
        for transport in both:
            transport.close()
    return median(found["paramiko"]) * 1000, median(found["ssh"]) * 1000


def main() -> int:
    """Everything, and the table."""
    options = arguments(__doc__ or "")
    count = 50 if options.quick else 300
    report = Bench("ssh", quick=options.quick, counts={"calls": count})
    with Sandboxed() as bench:
        ours, theirs = one_call(bench, count)
        commands(bench, report)
    report.figure("call_ms", round(ours, 2), "ms a call, paramiko")
    report.figure("ssh_call_ms", round(theirs, 2), "ms a call, a client of ssh's kept connection")
    report.figure("call_ratio", round(ours / theirs, 2), "of it")
    report.goal("a call takes at most half of ssh's", ours <= theirs / 2)
    return report.print(as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
