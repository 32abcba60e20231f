"""Docker in the sandbox, unpacked from packages: its login node is then a host of one's own, without Slurm.

One daemon serves one host. The hook by which NVIDIA's toolkit makes docker know of GPUs is there and does nothing;
docker itself says in a container's environment which GPUs it was to give. Source: dockerd's reference; moby's
nvidia_linux.go.
"""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

from nemodeploy.errors import PreflightFailed
from nemodeploy.sandbox.cluster import Sandbox
from nemodeploy.sandbox.configuration import Software
from nemodeploy.sandbox.place import Place
from nemodeploy.sandbox.runtimes.base import (
    MAY_NOT_RAISE_LIMITS,
    RealRuntime,
    empty_archive,
    mounts,
    require_namespaces,
    write_program,
)
from nemodeploy.sandbox.unpacking import Say, Unpacked, run

DOCKER = "docker"
RELEASE = "bookworm"
PACKAGES = ("docker.io", "containerd", "runc")
PROGRAM_NAMES = (DOCKER, "dockerd", "containerd", "containerd-shim-runc-v2", "runc")
GPU_HOOK = "nvidia-container-runtime-hook"
IMAGE = "nemodeploy/empty:1"
OPTIONS = ("--bridge=none", "--iptables=false", "--ip6tables=false", "--storage-driver=vfs")


class Docker(RealRuntime):
    """One from packages, with a daemon of its own on the login node of every sandbox."""

    name = DOCKER
    recipe = "1"

    def build(self, unpacked: Unpacked, say: Say) -> None:
        """Nothing but its programs, and the hook."""
        unpacked.fetch(PACKAGES, RELEASE, say)
        unpacked.name_programs(PROGRAM_NAMES)
        hook = unpacked.making / "bin" / GPU_HOOK
        hook.write_text("#!/bin/sh\n")
        hook.chmod(0o755)

    def in_image(self, software: Software, sandbox: Sandbox, program: Path) -> Software:
        """Its daemon runs, and has the image."""
        require_namespaces(DOCKER, sandbox)
        starter = write_program(sandbox, DOCKER, _starter(sandbox.place, program))
        done = sandbox.exec("sh", "-s", stdin=_daemon(sandbox.place, program.parent))
        if done.returncode:
            raise PreflightFailed(f"docker's daemon did not start: {done.stderr.strip()[-200:]}")
        with empty_archive(sandbox) as archive:
            run((str(starter), "import", str(archive), IMAGE))
        return replace(software, runtime=DOCKER, one_host=True, image=IMAGE, mounts=mounts(software))


def _socket(place: Place) -> str:
    return f"unix://{place.root}/run/{DOCKER}.sock"


def _daemon(place: Place, programs: Path) -> str:
    """Start it, unless it runs, and wait for its first answer."""
    run_directory, log = place.root / "run", place.root / "log/dockerd.log"
    words = shlex.join(
        (
            *("dockerd", *OPTIONS, f"--host={_socket(place)}", f"--data-root={place.root / DOCKER}"),
            *(f"--exec-root={run_directory / DOCKER}", f"--pidfile={run_directory}/dockerd.pid"),
        )
    )
    return f"""\
PATH={shlex.quote(str(programs))}:$PATH DOCKER_HOST={shlex.quote(_socket(place))}
export PATH DOCKER_HOST
docker version >/dev/null 2>&1 && exit
setsid nohup {words} >{shlex.quote(str(log))} 2>&1 </dev/null &
for try in $(seq 300); do
  docker version >/dev/null 2>&1 && exit
  sleep 0.1
done
tail -n 3 {shlex.quote(str(log))} >&2
exit 1
"""


def _starter(place: Place, program: Path) -> str:
    return f"""\
export DOCKER_HOST={shlex.quote(_socket(place))}
{MAY_NOT_RAISE_LIMITS}
if [ "$1" = run ] && may_not_raise_limits; then
  before=
  for word; do
    shift
    [ "$word" = --ulimit ] || [ "$before" = --ulimit ] || set -- "$@" "$word"
    before=$word
  done
fi
exec {shlex.quote(str(program))} "$@"
"""
