"""Slurms that are not the machine's own: unpacked from packages, without root, and of other Debian releases."""

from __future__ import annotations

import ctypes
import shlex
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nemodeploy.sandbox.unpacking import Say, Unpacked, alone_in, run

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
OWN = "own"
# Which release of Debian has which Slurm; `own` is whatever this machine's own package sources have.
RELEASES: Mapping[str, str] = {
    OWN: "",
    "20.11": "bullseye",
    "22.05": "bookworm",
    "24.11": "trixie",
    "newest": "sid",
}
SLURM_PACKAGES = ("slurmctld", "slurmd", "slurm-client", "slurmdbd")
OTHER_PACKAGES = ("munge", "openssh-server", "openssh-client", "iproute2", "util-linux", "mount", "libgomp1")
SLURM_PROGRAMS = (
    *("sacct", "sacctmgr", "salloc", "sattach", "sbatch", "sbcast", "scancel", "scontrol", "sdiag", "sinfo", "sprio"),
    *("squeue", "sreport", "srun", "sshare", "sstat", "strigger", "slurmctld", "slurmd", "slurmdbd", "slurmstepd"),
)
OTHER_PROGRAMS = ("munged", "sshd", "ssh", "ssh-keygen", "ip", "unshare", "setpriv", "mount")
OPENMP = "libgomp.so.1"


@dataclass(frozen=True, slots=True)
class Slurm:
    """One Slurm that a sandbox can run: by its name in RELEASES, or MACHINE; what its programs say of their version,
    if they were asked; and the directory it was unpacked into, if it was."""

    name: str
    version: str = ""
    home: Path | None = None

    @property
    def path(self) -> str:
        """The search path on which its programs come before the machine's own."""
        return f"{self.home / 'bin'}:{SYSTEM_PATH}" if self.home else SYSTEM_PATH

    @property
    def plugins(self) -> str:
        """The directory of its plugins; empty: where its programs look by themselves."""
        return str(next((self.home / "root/usr/lib").glob("*/slurm-wlm"))) if self.home else ""

    @property
    def libraries(self) -> str:
        """The directory of the OpenMP library that came along for the stand-ins; empty: the machine has one itself."""
        if self.home and (self.home / "lib" / OPENMP).exists() and not machine_has(OPENMP):
            return str(self.home / "lib")
        return ""


MACHINE = Slurm("machine")


class Slurms:
    """All unpacked Slurms of one directory."""

    def __init__(self, directory: Path) -> None:
        """Name the directory; nothing is made yet."""
        self.directory = directory

    def find(self, name: str) -> Slurm | None:
        """An unpacked Slurm by its name in RELEASES, or None where it is not here as this release makes it."""
        home = self.directory / name
        try:
            recipe, version = (home / "installed").read_text().split("\n", 1)
        except (OSError, ValueError):
            return None
        if recipe != _recipe(name):
            return None
        return Slurm(name, version.strip(), home)

    def install(self, name: str, say: Say) -> Slurm:
        """Download and unpack one, unless it is here; every line of progress goes to `say`.

        Raises PreflightFailed where that cannot be (no apt, no network, no such release at this machine's mirror) and
        BadInput where the directory cannot be written.
        """
        with alone_in(self.directory, "NEMODEPLOY_SLURM_DIR"):
            found = self.find(name)
            if found:
                say(f"Slurm {found.version} is here already")
                return found
            return self._build(name, say)

    def _build(self, name: str, say: Say) -> Slurm:
        begun, home = time.monotonic(), self.directory / name
        unpacked = Unpacked(self.directory / f"{name}.new", home)
        packages = unpacked.fetch(_packages(name), RELEASES[name], say)
        _write_programs(unpacked, name)
        unpacked.settle()
        version = run((str(home / "bin/slurmctld"), "-V")).split()[-1]
        (home / "installed").write_text(f"{_recipe(name)}\n{version}\n")
        size = sum(file.lstat().st_size for file in home.rglob("*") if file.is_file()) / 1e6
        say(f"Slurm {version}: {packages} packages, {size:.0f} MB, after {time.monotonic() - begun:.0f} s")
        return Slurm(name, version, home)


def machine_has(library: str) -> bool:
    """Whether the loader finds a shared library by itself."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def missing_programs(needed: tuple[str, ...], path: str) -> tuple[str, ...]:
    """Those that are not on a search path."""
    return tuple(name for name in needed if not shutil.which(name, path=path))


def _recipe(name: str) -> str:
    """What says that an unpacked Slurm is as this release of nemodeploy makes it."""
    return " ".join(("7", name, *_packages(name), *SLURM_PROGRAMS, *OTHER_PROGRAMS))


def _packages(name: str) -> tuple[str, ...]:
    return (*SLURM_PACKAGES, *(OTHER_PACKAGES if name == OWN else ()))


def _write_programs(unpacked: Unpacked, name: str) -> None:
    """Every program by its plain name in `bin`: all of Slurm, and of the rest what this machine has not itself.

    No script can stand before slurmctld, since it starts /proc/self/exe; slurmd has to be told where slurmstepd is.
    """
    bin_directory, more = unpacked.making / "bin", unpacked.making / "lib"
    more.mkdir()
    for library in unpacked.root.glob("usr/lib/*/slurm-wlm/*.so"):
        if not library.is_symlink():
            unpacked.forget_places(library)
    others = missing_programs(OTHER_PROGRAMS, MACHINE.path) if name == OWN else ()
    unpacked.name_programs((*SLURM_PROGRAMS, *others))
    slurmd = bin_directory / "slurmd"
    slurmd.rename(more / "slurmd")
    words = shlex.join((str(unpacked.home / "lib/slurmd"), "-d", str(unpacked.home / "bin/slurmstepd")))
    slurmd.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    slurmd.chmod(0o755)
    for library in unpacked.root.glob(f"usr/lib/*/{OPENMP}"):
        (more / library.name).symlink_to(unpacked.at_home(library))
