"""Apptainer in the sandbox, unpacked from packages.

Source: apptainer's admin guide (unprivileged installations may lie anywhere; user namespaces).
"""

from __future__ import annotations

import shlex
import shutil
from dataclasses import replace
from pathlib import Path

from nemodeploy.sandbox.cluster import Sandbox
from nemodeploy.sandbox.configuration import Software
from nemodeploy.sandbox.runtimes.base import RealRuntime, make_empty, mounts
from nemodeploy.sandbox.slurms import SYSTEM_PATH
from nemodeploy.sandbox.unpacking import Say, Unpacked

APPTAINER = "apptainer"
RELEASE = "sid"  # no other release of Debian has it
PACKAGES = (APPTAINER, "squashfs-tools")
PROGRAM_NAMES = (APPTAINER, "mksquashfs", "unsquashfs")


class Apptainer(RealRuntime):
    """The machine's own, or one from packages."""

    name = APPTAINER
    recipe = "3"

    def find(self, directory: Path) -> Path | None:
        """The machine's own comes first."""
        own = shutil.which(APPTAINER, path=SYSTEM_PATH)
        return Path(own) if own else super().find(directory)

    def build(self, unpacked: Unpacked, say: Say) -> None:
        """Its settings and its place for mounts lie where it looks for them."""
        unpacked.fetch(PACKAGES, RELEASE, say)
        starter = next(unpacked.root.glob(f"usr/lib/*/{APPTAINER}/bin/starter"))
        unpacked.patch(starter)
        # It looks for them relative to its own programs, at two depths.
        for top in (unpacked.root / "usr", unpacked.root / "usr/lib"):
            for name in ("etc", "var"):
                (top / name).symlink_to(unpacked.at_home(unpacked.root / name))
        (unpacked.root / "var/lib" / APPTAINER / "mnt/session").mkdir(parents=True, exist_ok=True)
        unpacked.name_programs(PROGRAM_NAMES)
        # Root asks for every capability, and may lack one; in a user namespace of its own it has all.
        script = unpacked.making / "bin" / APPTAINER
        words = shlex.quote(str(script.readlink()))
        script.unlink()
        as_root = f'[ "$(id -u)" -ne 0 ] || exec unshare --user --map-root-user {words} "$@"'
        script.write_text(f'#!/bin/sh\n{as_root}\nexec {words} "$@"\n')
        script.chmod(0o755)

    def in_image(self, software: Software, sandbox: Sandbox, program: Path) -> Software:
        """The image is a directory, beside the sandbox's other files."""
        place = sandbox.place
        image = place.root / "image"
        make_empty(image)
        place.programs.mkdir(parents=True, exist_ok=True)
        for beside in program.parent.iterdir() if program.parent.parent.name == APPTAINER else (program,):
            link = place.programs / beside.name
            link.unlink(missing_ok=True)
            link.symlink_to(beside)
        return replace(software, runtime=APPTAINER, image=str(image), mounts=mounts(software))
