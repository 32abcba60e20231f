"""Slurm without root, and of other Debian releases: packages unpacked into a directory, with everything they need.

Nothing is installed on the machine. apt resolves and checks the packages as ever, but against an empty list of what is
installed, so that the C library and its loader come along; a small script in front of each program starts it with
those. What such a program starts in turn (a job, a shell) is the machine's own again.
Source: the man pages of apt-get, dpkg-deb and ld.so; slurmd's option -d.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from nemodeploy.errors import BadInput, PreflightFailed

Say = Callable[[str], None]

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
SLURM_PACKAGES = ("slurmctld", "slurmd", "slurm-client", "patchelf")
OTHER_PACKAGES = ("munge", "openssh-server", "openssh-client", "iproute2", "util-linux", "mount", "libgomp1")
SLURM_PROGRAMS = (
    *("sacct", "sacctmgr", "salloc", "sattach", "sbatch", "sbcast", "scancel", "scontrol", "sdiag", "sinfo", "sprio"),
    *("squeue", "sreport", "srun", "sshare", "sstat", "strigger", "slurmctld", "slurmd", "slurmstepd"),
)
OTHER_PROGRAMS = ("munged", "sshd", "ssh", "ssh-keygen", "ip", "unshare", "setpriv", "mount")
OPENMP = "libgomp.so.1"
DEBIAN_RELEASES = (*RELEASES.values(), "oldoldstable", "oldstable", "stable", "testing", "unstable", "forky", "duke")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
PROGRAM_PLACES = ("usr/bin", "usr/sbin", "bin", "sbin")
SUPERFLUOUS = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/perl5", "usr/lib/systemd")


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
        found = self.home and not machine_has(OPENMP) and (self.home / "lib" / OPENMP).exists()
        return str(self.home / "lib") if self.home and found else ""


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
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with (self.directory / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # two at once: the second finds it installed
                found = self.find(name)
                if found:
                    say(f"Slurm {found.version} is here already")
                    return found
                return self._build(name, say)
        except OSError as error:
            raise BadInput(
                f"cannot write {error.filename}: {error.strerror}", hint="check NEMODEPLOY_SLURM_DIR and XDG_DATA_HOME"
            ) from error

    def _build(self, name: str, say: Say) -> Slurm:
        begun, new, home = time.monotonic(), self.directory / f"{name}.new", self.directory / name
        for program in ("apt-get", "dpkg-deb"):
            if not shutil.which(program):
                raise PreflightFailed(
                    f"unpacking Slurm needs {program}, which only Debian, Ubuntu and their kin have",
                    hint="install Slurm and an SSH server as your system does it",
                )
        shutil.rmtree(new, ignore_errors=True)
        archives = _download(name, new / "apt", say)
        for archive in archives:
            _run(("dpkg-deb", "--extract", str(archive), str(new / "root")))
        for superfluous in ("apt", *(f"root/{path}" for path in SUPERFLUOUS)):
            shutil.rmtree(new / superfluous, ignore_errors=True)
        # The scripts name the place they will be in; until then the place is empty.
        _write_programs(new, home, name)
        shutil.rmtree(home, ignore_errors=True)
        new.rename(home)
        version = _run((str(home / "bin/slurmctld"), "-V")).split()[-1]
        (home / "installed").write_text(f"{_recipe(name)}\n{version}\n")
        size = sum(file.lstat().st_size for file in home.rglob("*") if file.is_file()) / 1e6
        say(f"Slurm {version}: {len(archives)} packages, {size:.0f} MB, after {time.monotonic() - begun:.0f} s")
        found = self.find(name)
        assert found, "it was made just now"
        return found


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
    return " ".join(("6", name, *_packages(name), *SLURM_PROGRAMS, *OTHER_PROGRAMS))


def _packages(name: str) -> tuple[str, ...]:
    return (*SLURM_PACKAGES, *(OTHER_PACKAGES if name == OWN else ()))


def _download(name: str, home: Path, say: Say) -> tuple[Path, ...]:
    """All packages that a Slurm needs, the C library among them, checked by apt against the archive's signature."""
    for directory in ("state/lists/partial", "cache/archives/partial"):
        (home / directory).mkdir(parents=True)
    (home / "status").touch()
    settings = {
        "Dir::State": home / "state",
        "Dir::State::status": home / "status",
        "Dir::Cache": home / "cache",
        "Debug::NoLocking": "1",
        "APT::Install-Recommends": "0",
        "APT::Sandbox::User": "",
        "Acquire::Retries": "3",
    }
    if RELEASES[name]:
        signed = f" [signed-by={KEYRING}]" if KEYRING.is_file() else ""
        (home / "sources.list").write_text(f"deb{signed} {_debian_mirror()} {RELEASES[name]} main\n")
        settings |= {"Dir::Etc::sourcelist": home / "sources.list", "Dir::Etc::sourceparts": "/dev/null"}
        settings |= {"Dir::Etc::preferencesparts": "/dev/null"}
    apt = ("apt-get", "-q", "-y", *(word for key, value in settings.items() for word in ("-o", f"{key}={value}")))
    say(f"looking up {' '.join(_packages(name))} in {RELEASES[name] or 'the package sources of this machine'}")
    _run((*apt, "update"))
    _run((*apt, "--download-only", "install", *_packages(name)))
    return tuple(sorted((home / "cache/archives").glob("*.deb")))


def _debian_mirror() -> str:
    """Where this machine takes Debian's packages from. Raises PreflightFailed where it takes none."""
    # Without release information it tells the sources also where no list was downloaded yet, as on a bare machine.
    form = "$(REPO_URI) $(RELEASE) $(COMPONENT)"
    words = ("apt-get", "indextargets", "--no-release-info", "--format", form, "Created-By: Packages")
    for line in _run(words).splitlines():
        address, release, component = (*line.split(), "", "", "")[:3]
        if component == "main" and release and release in DEBIAN_RELEASES:
            return address
    raise PreflightFailed(
        "the package sources of this machine are not Debian's, and other Slurms come from there",
        hint="nemodeploy sandbox install, without a version, takes the one your own sources have",
    )


def _write_programs(new: Path, home: Path, name: str) -> None:
    """Make each program take the loader and the libraries that came along, and give it its plain name in `bin`.

    The places are written into the programs themselves: slurmctld starts /proc/self/exe, so no script can stand before
    it. Slurm's own libraries name places, too, which are the machine's; they lose them.
    """
    root, libraries = new / "root", new / "lib"
    places = [*root.glob("usr/lib/*/slurm-wlm"), *root.glob("usr/lib/*-linux-gnu*"), *root.glob("lib/*-linux-gnu*")]
    search = ":".join(str(home / place.relative_to(new)) for place in places)
    loader = next(file for place in places for file in place.glob("ld-linux*.so.*"))
    here = ":".join(map(str, places))
    patch = (str(loader), "--library-path", here, str(root / "usr/bin/patchelf"))
    programs = dict(_programs(root, name))
    for library in root.glob("usr/lib/*/slurm-wlm/*.so"):
        if not library.is_symlink():
            _run((*patch, "--remove-rpath", str(library)))
    final = str(home / loader.relative_to(new))
    for file in programs.values():
        _run((*patch, "--set-interpreter", final, "--force-rpath", "--set-rpath", search, str(file)))
    (new / "bin").mkdir()
    libraries.mkdir()
    for program, file in programs.items():
        (new / "bin" / program).symlink_to(home / file.relative_to(new))
    slurmd, stepd = new / "bin/slurmd", shlex.quote(str(home / "bin/slurmstepd"))
    slurmd.rename(new / "lib/slurmd")
    slurmd.write_text(f'#!/bin/sh\nexec {shlex.quote(str(home / "lib/slurmd"))} -d {stepd} "$@"\n')
    slurmd.chmod(0o755)
    for library in root.glob(f"usr/lib/*/{OPENMP}"):
        (libraries / library.name).symlink_to(home / library.relative_to(new))


def _programs(root: Path, name: str) -> Iterator[tuple[str, Path]]:
    """The programs to be had: all of Slurm, and of the rest what this machine has not itself."""
    others = missing_programs(OTHER_PROGRAMS, MACHINE.path) if name == OWN else ()
    for program in (*SLURM_PROGRAMS, *others):
        found = (root / place / f"{program}{end}" for end in ("", "-wlm") for place in PROGRAM_PLACES)
        file = next((one for one in found if one.is_file()), None)
        if file:
            yield program, file


def _run(words: tuple[str, ...]) -> str:
    """What a command prints. Raises PreflightFailed with its own reason when it fails."""
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, env=environment)
    if done.returncode == 0:
        return done.stdout
    lines = [line for line in done.stderr.splitlines() if line.startswith("E: ")] or done.stderr.splitlines()
    reason = lines[0].removeprefix("E: ") if lines else f"status {done.returncode}"
    raise PreflightFailed(f"{Path(words[0]).name}: {reason}", hint="run it again with a network, or see its own manual")
