"""Podman in the sandbox, unpacked from packages; GPUs by a CDI file that names as many as a node has.

It needs root: an ordinary user's podman calls programs that the system must have made setuid. Storage is copied, not
overlaid, which works everywhere and costs nothing for an empty image; what runs is noted below /run, which is the
sandbox's own, since podman wants a short path there. Source: containers.conf(5),
containers-storage.conf(5), the Container Device Interface's specification.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

from nemodeploy.errors import PreflightFailed
from nemodeploy.sandbox.cluster import Sandbox
from nemodeploy.sandbox.configuration import Software
from nemodeploy.sandbox.files import GPU_FILES
from nemodeploy.sandbox.place import Place
from nemodeploy.sandbox.runtimes.base import (
    MAY_NOT_RAISE_LIMITS,
    RealRuntime,
    empty_archive,
    mounts,
    require_namespaces,
    write_program,
)
from nemodeploy.sandbox.unpacking import Say, Unpacked

PODMAN = "podman"
RELEASE = "bookworm"
PROGRAM_NAMES = (PODMAN, "conmon", "runc")
IMAGE = "localhost/nemodeploy/empty:1"
SECCOMP = "root/usr/share/containers/seccomp.json"
POLICY = "root/etc/containers/policy.json"


class Podman(RealRuntime):
    """One from packages, with settings and storage of its own for every sandbox."""

    name = PODMAN
    recipe = "1"

    def build(self, unpacked: Unpacked, say: Say) -> None:
        """Nothing but its programs."""
        unpacked.fetch(PROGRAM_NAMES, RELEASE, say)
        unpacked.name_programs(PROGRAM_NAMES)

    def in_image(self, software: Software, sandbox: Sandbox, program: Path) -> Software:
        """The image is in its storage; the GPUs are where it looks for them."""
        require_namespaces(PODMAN, sandbox)
        place, home = sandbox.place, program.parents[1]
        for name, text in _settings(place, home).items():
            (place.root / "etc" / name).write_text(text)
        write_program(sandbox, PODMAN, _starter(place, program))
        with empty_archive(sandbox) as archive:
            policy = str(home / POLICY)
            done = sandbox.exec(PODMAN, "import", "--quiet", "--signature-policy", policy, str(archive), IMAGE)
        if done.returncode:
            raise PreflightFailed(f"podman does not take the image: {done.stderr.strip()[-200:]}")
        sandbox.exec("sh", "-c", "mkdir -p /run/cdi && cat >/run/cdi/nvidia.json", stdin=_devices())
        return replace(software, runtime=PODMAN, image=IMAGE, mounts=mounts(software))


def _settings(place: Place, home: Path) -> dict[str, str]:
    return {
        "containers.conf": f"""\
[containers]
seccomp_profile = "{home / SECCOMP}"
[engine]
runtime = "runc"
conmon_path = ["{home}/bin/conmon"]
cgroup_manager = "cgroupfs"
events_logger = "file"
pull_policy = "never"
[engine.runtimes]
runc = ["{home}/bin/runc"]
""",
        "storage.conf": f"""\
[storage]
driver = "vfs"
graphroot = "{place.root}/{PODMAN}"
runroot = "/run/containers/storage"
""",
    }


def _starter(place: Place, program: Path) -> str:
    """Root's containers get more than root's own limits from it, unless it is told."""
    etc = place.root / "etc"
    return f"""\
export CONTAINERS_CONF={shlex.quote(str(etc / "containers.conf"))}
export CONTAINERS_STORAGE_CONF={shlex.quote(str(etc / "storage.conf"))}
{MAY_NOT_RAISE_LIMITS}
if [ "$1" = run ] && may_not_raise_limits; then
  for word; do
    shift
    if [ "$word" = --ulimit=host ]; then
      set -- "$@" "--ulimit=nofile=$most:$most" --ulimit=nproc=32768:32768
    else
      set -- "$@" "$word"
    fi
  done
fi
exec {shlex.quote(str(program))} "$@"
"""


def _devices() -> str:
    """Each GPU leaves its name in the environment of whoever is given it."""
    names = [*map(str, range(GPU_FILES)), "all"]
    devices = [{"name": name, "containerEdits": {"env": [f"SANDBOX_GPU_{name}=here"]}} for name in names]
    return json.dumps({"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": devices})
