"""Pyxis and enroot in the sandbox: the machine's own, since no release of Debian has them and nothing here builds them.

Each node keeps its containers on a disk of its own, as pyxis wants it. Source: the READMEs of pyxis (0.24) and enroot
(4.1).
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

from nemodeploy.errors import PreflightFailed
from nemodeploy.sandbox.cluster import Sandbox
from nemodeploy.sandbox.configuration import Software
from nemodeploy.sandbox.runtimes.base import RealRuntime, make_empty, mounts, write_program
from nemodeploy.sandbox.slurms import SYSTEM_PATH
from nemodeploy.sandbox.unpacking import Say, Unpacked

PYXIS, ENROOT, PLUGIN = "pyxis", "enroot", "spank_pyxis.so"
PLACES = ("lib/slurm", "lib64/slurm", "lib/*/slurm-wlm", "lib/*/slurm")
BUILD = "build enroot and pyxis from github.com/NVIDIA with the same prefix, such as /usr/local"


class Pyxis(RealRuntime):
    """Whatever enroot is on the path, with the plugin that was installed beside it."""

    name = PYXIS
    recipe = ""
    version_words = ("version",)  # enroot's

    def find(self, directory: Path) -> Path | None:
        """Enroot; None where it or the plugin is missing."""
        own = shutil.which(ENROOT, path=f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}")
        return Path(own) if own and _plugin(Path(own)) else None

    def build(self, unpacked: Unpacked, say: Say) -> None:
        """Raises PreflightFailed."""
        raise PreflightFailed(f"{PYXIS} is not on this machine, and Debian has no package of it", hint=BUILD)

    def spank(self, sandbox: Sandbox, program: Path) -> str:
        """The plugin, its images on the node's own disk."""
        return f"required {_plugin(program)} runtime_path={sandbox.place.local}/{PYXIS}\n"

    def in_image(self, software: Software, sandbox: Sandbox, program: Path) -> Software:
        """The image is a squashfs file beside the sandbox's other files."""
        state, place = sandbox.state(), sandbox.place
        if state is None or state.mode == "plain":
            raise PreflightFailed(f"{PYXIS} in the sandbox needs namespaces", hint="another --runtime")
        if (place.root / "etc/plugstack.conf").read_text() != self.spank(sandbox, program):
            raise PreflightFailed(f"the sandbox runs already, without {PYXIS}", hint="nemodeploy sandbox down")
        write_program(sandbox, ENROOT, _starter(place.local, program))
        image, file = place.root / "image", place.root / "image.sqsh"
        make_empty(image)
        file.unlink(missing_ok=True)
        done = subprocess.run(
            ("mksquashfs", str(image), str(file), "-quiet", "-all-root"), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise PreflightFailed(f"mksquashfs cannot make {file}: {done.stderr.strip()[-200:]}")
        return replace(software, runtime=PYXIS, image=str(file), mounts=mounts(software))


def _plugin(enroot: Path) -> Path | None:
    prefix = enroot.absolute().parents[1]
    return next((found for place in PLACES for found in sorted(prefix.glob(f"{place}/{PLUGIN}"))), None)


def _starter(local: Path, program: Path) -> str:
    paths = "".join(
        f"export ENROOT_{name}_PATH={shlex.quote(f'{local}/{ENROOT}/{name.lower()}')}\n"
        for name in ("DATA", "RUNTIME", "CACHE")
    )
    beside = shlex.quote(str(program.parent))
    return f'{paths}PATH={beside}:$PATH exec {shlex.quote(str(program))} "$@"\n'
