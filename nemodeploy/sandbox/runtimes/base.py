"""What real container runtimes in the sandbox share.

The image is empty but for directories: the machine's own programs and libraries are mounted into it, so that what is
tried is the runtime, with its mounts, its environment and its processes, and not 20 GB of somebody's software.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

from nemodeploy.errors import PreflightFailed
from nemodeploy.sandbox.cluster import Sandbox
from nemodeploy.sandbox.configuration import Software
from nemodeploy.sandbox.packs import PROGRAMS
from nemodeploy.sandbox.unpacking import Say, Unpacked, alone_in, run

EMPTY = ("usr", "etc", "tmp", "proc", "sys", "dev", "var/tmp", "run")
TOP_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
# A root that lacks a capability may raise no limits, not even a container's.
MAY_NOT_RAISE_LIMITS = """\
most=$(ulimit -Hn)
may_not_raise_limits() { [ "$most" != unlimited ] && ! (ulimit -Hn $((most + 1))) 2>/dev/null; }"""
FILES = ("etc/hosts", "etc/resolv.conf", "etc/passwd", "etc/group", "etc/localtime")


class RealRuntime(ABC):
    """A runtime unpacked from packages: its name in cluster files, and another recipe for every way of making it."""

    name: str
    recipe: str
    version_words: tuple[str, ...] = ("--version",)

    def find(self, directory: Path) -> Path | None:
        """Its program below a directory; None where it is not here as this release makes it."""
        stamp = directory / self.name / "installed"
        here = stamp.exists() and stamp.read_text() == self.recipe
        return directory / self.name / "bin" / self.name if here else None

    def install(self, directory: Path, say: Say) -> Path:
        """Unpack it below a directory, unless it is here. Raises as `Slurms.install` does."""
        with alone_in(directory, "NEMODEPLOY_SLURM_DIR"):
            found = self.find(directory)
            if not found:
                unpacked = Unpacked(directory / f"{self.name}.new", directory / self.name)
                self.build(unpacked, say)
                unpacked.settle()
                (unpacked.home / "installed").write_text(self.recipe)
                found = unpacked.home / "bin" / self.name
        say(f"{self.name} is here: {found} ({run((str(found), *self.version_words)).strip()})")
        return found

    @abstractmethod
    def build(self, unpacked: Unpacked, say: Say) -> None:
        """Get the packages, and make their programs in `bin`."""

    def spank(self, sandbox: Sandbox, program: Path) -> str:
        """What it adds to Slurm, in the words of plugstack.conf."""
        return ""

    @abstractmethod
    def in_image(self, software: Software, sandbox: Sandbox, program: Path) -> Software:
        """The same software, started in containers: its image is made, and the program put on the sandbox's path.

        `sandbox` runs. Raises PreflightFailed where this runtime cannot work in it.
        """


def make_empty(image: Path) -> None:
    """A root file system with nothing but places for what is mounted into it."""
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


@contextlib.contextmanager
def empty_archive(sandbox: Sandbox) -> Iterator[Path]:
    """Such a root file system as a tar file, for as long as it is needed."""
    image, archive = sandbox.place.root / "image", sandbox.place.root / "image.tar"
    make_empty(image)
    with tarfile.open(archive, "w") as tar:
        tar.add(image, ".")
    try:
        yield archive
    finally:
        archive.unlink()


def require_namespaces(name: str, sandbox: Sandbox) -> None:
    """Raises PreflightFailed where it is not root's, or its nodes are no hosts of their own."""
    state = sandbox.state()
    if os.geteuid() != 0 or state is None or state.mode == "plain":
        raise PreflightFailed(f"{name} in the sandbox needs root and namespaces", hint="another --runtime")


def write_program(sandbox: Sandbox, name: str, text: str) -> Path:
    """A script on the sandbox's path; its file."""
    file = sandbox.place.programs / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    file.write_text(f"#!/bin/sh\n{text}")
    file.chmod(0o755)
    return file


def mounts(software: Software) -> tuple[str, ...]:
    """What such an image has not: the system's programs and libraries, Pythons, and ours; nothing twice."""
    pythons = {words[0] for words in software.programs.values()}
    environments = {Path(python).absolute().parents[1] for python in pythons}
    bases = {Path(sys.base_prefix), *(Path(python).resolve().parents[1] for python in pythons)}
    system = [Path("/", name) for name in ("usr", *TOP_LINKS) if Path("/", name).is_dir()]
    wanted = [path for path in system if not path.is_symlink()]
    for path in sorted({*environments, *bases, PROGRAMS}):
        if not any(path.is_relative_to(already) for already in wanted):
            wanted.append(path)
    return tuple(f"{path}:{path}:ro" for path in wanted)
