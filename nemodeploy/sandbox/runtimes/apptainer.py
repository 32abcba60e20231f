"""Apptainer in the sandbox, unpacked from packages, and an image for it.

The image is empty but for directories: the machine's own programs and libraries are mounted into it, so that what is
tried is the runtime, with its mounts, its environment and its processes, and not 20 GB of somebody's software.
Source: apptainer's admin guide (unprivileged installations may lie anywhere; user namespaces).
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from nemodeploy.sandbox.configuration import Software
from nemodeploy.sandbox.packs import PROGRAMS
from nemodeploy.sandbox.place import Place
from nemodeploy.sandbox.slurms import SYSTEM_PATH
from nemodeploy.sandbox.unpacking import Say, Unpacked, alone_in, run

APPTAINER = "apptainer"
RELEASE = "sid"  # no other release of Debian has it
PACKAGES = (APPTAINER, "squashfs-tools")
PROGRAM_NAMES = (APPTAINER, "mksquashfs", "unsquashfs")
RECIPE = "3"  # another one for every way in which a release of nemodeploy makes it
EMPTY = ("usr", "etc", "tmp", "proc", "sys", "dev", "var/tmp", "run")
TOP_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
FILES = ("etc/hosts", "etc/resolv.conf", "etc/passwd", "etc/group", "etc/localtime")


class Apptainer:
    """The machine's own, or one from packages."""

    def find(self, directory: Path) -> Path | None:
        """The program, the machine's own or the one unpacked below a directory; None where there is neither."""
        own = shutil.which(APPTAINER, path=SYSTEM_PATH)
        unpacked = directory / APPTAINER / "bin" / APPTAINER
        stamp = directory / APPTAINER / "installed"
        return Path(own) if own else unpacked if stamp.exists() and stamp.read_text() == RECIPE else None

    def install(self, directory: Path, say: Say) -> Path:
        """Unpack it below a directory, unless it is here. Raises as `Slurms.install` does."""
        with alone_in(directory, "NEMODEPLOY_SLURM_DIR"):
            found = self.find(directory)
            if not found:
                _build(Unpacked(directory / f"{APPTAINER}.new", directory / APPTAINER), say)
                found = directory / APPTAINER / "bin" / APPTAINER
        say(f"{run((str(found), '--version')).strip()} is here: {found}")
        return found

    def in_image(self, software: Software, place: Place, program: Path) -> Software:
        """The same software, started in containers by a runtime; its image is made, and its program put on the path."""
        image = place.root / "image"
        for name in EMPTY:
            (image / name).mkdir(parents=True, exist_ok=True)
        for name in FILES:
            (image / name).touch()
        for name in TOP_LINKS:
            with contextlib.suppress(FileExistsError):
                if Path("/", name).is_symlink():
                    (image / name).symlink_to(f"usr/{name}")
                elif Path("/", name).is_dir():
                    (image / name).mkdir()
        place.programs.mkdir(parents=True, exist_ok=True)
        for beside in program.parent.iterdir() if program.parent.parent.name == APPTAINER else (program,):
            link = place.programs / beside.name
            link.unlink(missing_ok=True)
            link.symlink_to(beside)
        return replace(software, runtime=APPTAINER, image=str(image), mounts=tuple(_mounts(software)))


def _build(unpacked: Unpacked, say: Say) -> None:
    unpacked.fetch(PACKAGES, RELEASE, say)
    (unpacked.making / "bin").mkdir()
    starter = next(unpacked.root.glob(f"usr/lib/*/{APPTAINER}/bin/starter"))
    unpacked.patch(starter)
    # It looks for its settings and its place for mounts relative to its own programs, at two depths.
    for top in (unpacked.root / "usr", unpacked.root / "usr/lib"):
        for name in ("etc", "var"):
            (top / name).symlink_to(unpacked.at_home(unpacked.root / name))
    (unpacked.root / "var/lib" / APPTAINER / "mnt/session").mkdir(parents=True, exist_ok=True)
    for program in PROGRAM_NAMES:
        file = unpacked.find(program)
        if file:
            unpacked.patch(file)
            (unpacked.making / "bin" / program).symlink_to(unpacked.at_home(file))
    # Root asks for every capability, and may lack one; in a user namespace of its own it has all.
    script = unpacked.making / "bin" / APPTAINER
    words = shlex.quote(str(script.readlink()))
    script.unlink()
    as_root = f'[ "$(id -u)" -ne 0 ] || exec unshare --user --map-root-user {words} "$@"'
    script.write_text(f'#!/bin/sh\n{as_root}\nexec {words} "$@"\n')
    script.chmod(0o755)
    unpacked.settle()
    (unpacked.home / "installed").write_text(RECIPE)


def _mounts(software: Software) -> list[str]:
    """What the image has not: the system's programs and libraries, Pythons, and ours; nothing twice."""
    pythons = {words[0] for words in software.programs.values()}
    environments = {Path(python).absolute().parents[1] for python in pythons}
    bases = {Path(sys.base_prefix), *(Path(python).resolve().parents[1] for python in pythons)}
    system = [Path("/", name) for name in ("usr", *TOP_LINKS) if Path("/", name).is_dir()]
    wanted = [path for path in system if not path.is_symlink()]
    for path in sorted({*environments, *bases, PROGRAMS}):
        if not any(path.is_relative_to(already) for already in wanted):
            wanted.append(path)
    return [f"{path}:{path}:ro" for path in wanted]
