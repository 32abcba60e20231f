"""Programs of Debian packages without installing them: unpacked into a directory, with everything they need.

apt resolves and checks the packages as ever, but against an empty list of what is installed, so that the C library and
its loader come along, and the programs are made to take those. What such a program starts in turn (a job, a shell) is
the machine's own again. Source: the man pages of apt-get, dpkg-deb, ld.so and patchelf.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from nemodeploy.errors import BadInput, PreflightFailed

Say = Callable[[str], None]

PATCHELF = "patchelf"
DEBIAN_RELEASES = (
    *("bullseye", "bookworm", "trixie", "forky", "duke", "sid"),
    *("oldoldstable", "oldstable", "stable", "testing", "unstable"),
)
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SUPERFLUOUS = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/perl5", "usr/lib/systemd")


@contextlib.contextmanager
def alone_in(directory: Path, variable: str) -> Iterator[None]:
    """Build something below a directory that is made for it, one process at a time: a second one finds it built.

    `variable`: the environment variable that names the directory. Raises BadInput where it cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise BadInput(
            f"cannot write {error.filename}: {error.strerror}", hint=f"check {variable} and XDG_DATA_HOME"
        ) from error


class Unpacked:
    """Packages being unpacked into one directory, to be moved to another when they are whole.

    `making` is where they are now, `home` where they will be: programs name that one.
    """

    def __init__(self, making: Path, home: Path) -> None:
        """Name the two directories; nothing is made yet."""
        self.making, self.home = making, home

    @property
    def root(self) -> Path:
        """The tree of the packages' files."""
        return self.making / "root"

    def at_home(self, file: Path) -> Path:
        """Where a file of the tree will be."""
        return self.home / file.relative_to(self.making)

    def fetch(self, packages: tuple[str, ...], release: str, say: Say) -> int:
        """Get packages and all that they need, and unpack them; how many they are.

        `release` is one of Debian's; empty: whatever this machine's own package sources have. Raises PreflightFailed
        without apt, without a network, or where the mirror has no such release; OSError where nothing can be written.
        """
        for program in ("apt-get", "dpkg-deb"):
            if not shutil.which(program):
                raise PreflightFailed(
                    f"unpacking packages needs {program}, which only Debian, Ubuntu and their kin have",
                    hint="install the programs as your system does it",
                )
        shutil.rmtree(self.making, ignore_errors=True)
        archives = _download((*packages, PATCHELF), release, self.making / "apt", say)
        for archive in archives:
            run(("dpkg-deb", "--extract", str(archive), str(self.root)))
        for superfluous in (self.making / "apt", *(self.root / path for path in SUPERFLUOUS)):
            shutil.rmtree(superfluous, ignore_errors=True)
        return len(archives)

    def find(self, program: str) -> Path | None:
        """A program of the tree; Debian's names for alternatives count."""
        places = ("usr/bin", "usr/sbin", "bin", "sbin")
        found = (self.root / place / f"{program}{end}" for end in ("", "-wlm") for place in places)
        return next((one for one in found if one.is_file()), None)

    def patch(self, file: Path) -> None:
        """Make a program take the loader and the libraries that came along, wherever it is started from."""
        search = ":".join(str(self.at_home(place)) for place in self._libraries())
        loader = str(self.at_home(self._loader()))
        self._patchelf("--set-interpreter", loader, "--force-rpath", "--set-rpath", search, str(file))

    def name_programs(self, names: tuple[str, ...]) -> None:
        """Patch programs, as far as they came along, and put each into `bin` by its plain name."""
        (self.making / "bin").mkdir(exist_ok=True)
        for name in names:
            file = self.find(name)
            if file:
                self.patch(file)
                (self.making / "bin" / name).symlink_to(self.at_home(file))

    def forget_places(self, library: Path) -> None:
        """Take from a library the places where it would look for others on the machine."""
        self._patchelf("--remove-rpath", str(library))

    def settle(self) -> None:
        """Move everything to its home, in place of what was there."""
        shutil.rmtree(self.home, ignore_errors=True)
        self.making.rename(self.home)

    def _libraries(self) -> list[Path]:
        shapes = ("usr/lib/*/slurm-wlm", "usr/lib/*-linux-gnu*", "lib/*-linux-gnu*")
        return [place for shape in shapes for place in sorted(self.root.glob(shape))]

    def _loader(self) -> Path:
        return next(file for place in self._libraries() for file in place.glob("ld-linux*.so.*"))

    def _patchelf(self, *words: str) -> None:
        # It has no loader of its own on this machine either.
        start = (str(self._loader()), "--library-path", ":".join(map(str, self._libraries())))
        run((*start, str(self.root / "usr/bin" / PATCHELF), *words))


def _download(packages: tuple[str, ...], release: str, home: Path, say: Say) -> tuple[Path, ...]:
    """Packages and all that they need, the C library among them, checked by apt against the archive's signature."""
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
    if release:
        signed = f" [signed-by={KEYRING}]" if KEYRING.is_file() else ""
        (home / "sources.list").write_text(f"deb{signed} {_debian_mirror()} {release} main\n")
        settings |= {"Dir::Etc::sourcelist": home / "sources.list", "Dir::Etc::sourceparts": "/dev/null"}
        settings |= {"Dir::Etc::preferencesparts": "/dev/null"}
    apt = ("apt-get", "-q", "-y", *(word for key, value in settings.items() for word in ("-o", f"{key}={value}")))
    say(f"looking up {' '.join(packages)} in {release or 'the package sources of this machine'}")
    run((*apt, "update"))
    run((*apt, "--download-only", "install", *packages))
    return tuple(sorted((home / "cache/archives").glob("*.deb")))


def _debian_mirror() -> str:
    """Where this machine takes Debian's packages from. Raises PreflightFailed where it takes none."""
    # Without release information it tells the sources also where no list was downloaded yet, as on a bare machine.
    form = "$(REPO_URI) $(RELEASE) $(COMPONENT)"
    words = ("apt-get", "indextargets", "--no-release-info", "--format", form, "Created-By: Packages")
    for line in run(words).splitlines():
        address, suite, component = (*line.split(), "", "", "")[:3]
        if component == "main" and suite in DEBIAN_RELEASES:
            return address
    raise PreflightFailed(
        "the package sources of this machine are not Debian's, and what was asked for comes from there",
        hint="nemodeploy sandbox install, without a version, takes the one your own sources have",
    )


def run(words: tuple[str, ...]) -> str:
    """What a command prints. Raises PreflightFailed with its own reason when it fails."""
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, env=environment)
    if done.returncode == 0:
        return done.stdout
    lines = [line for line in done.stderr.splitlines() if line.startswith("E: ")] or done.stderr.splitlines()
    reason = lines[0].removeprefix("E: ") if lines else f"status {done.returncode}"
    raise PreflightFailed(f"{Path(words[0]).name}: {reason}", hint="run it again with a network, or see its own manual")
