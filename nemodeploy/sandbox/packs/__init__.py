"""Engine packs: the engines' own software on this machine's CPU, an environment of pinned packages each."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from nemodeploy.errors import PreflightFailed
from nemodeploy.sandbox.programs import ALWAYS, CHECKPOINTS, GGUF, OWN, REAL, WEIGHTY
from nemodeploy.sandbox.unpacking import alone_in

HERE = Path(__file__).parent
PROGRAMS = HERE.parent / "programs"
TORCH = "2.13.0"
PYTHONS = ((3, 11), (3, 12), (3, 13))
MADE_BY = ("checkpoints.py", "conversations.py", "training.py", GGUF)
_OFFLINE = re.compile(
    r"name resolution|Name or service|NewConnectionError|Max retries|ConnectTimeout|Network is unreach"
)
_NOT_THERE = re.compile(r"No matching distribution found for (\S+)")
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pack:
    """Some engines' software. `size_gb` is its room on disk with a CPU build of torch."""

    name: str
    about: str
    size_gb: float

    @property
    def always(self) -> bool:
        """Whether it is part of nemodeploy's own environment."""
        return self.name in ALWAYS

    @property
    def engines(self) -> tuple[str, ...]:
        """Which engines it holds."""
        return tuple(REAL[self.name]) if self.name in REAL else (self.name,)

    @property
    def requirements(self) -> Path:
        """Its packages but torch, each with its version."""
        return HERE / f"{self.name}.txt"


PACKS: Mapping[str, Pack] = {
    name: Pack(name=name, about=about, size_gb=size) for name, (about, size) in {**ALWAYS, **WEIGHTY}.items()
}


class Packs:
    """All packs of one directory, and the tiny checkpoints that their servers load."""

    def __init__(self, directory: Path) -> None:
        """Name the directory; nothing is made yet."""
        self.directory = directory

    @property
    def checkpoints(self) -> Path:
        """The directory of the tiny checkpoints."""
        return self.directory / "checkpoints"

    def python(self, pack: Pack) -> Path:
        """The pack's Python."""
        return Path(sys.executable) if pack.always else self.directory / pack.name / "bin/python"

    def installed(self, pack: Pack) -> bool:
        """Whether it is here whole, and the one that this release means."""
        if pack.always:
            return importlib.util.find_spec("xllamacpp") is not None
        return _read(self._stamp(pack)) == _digest(pack.requirements) and self.have_checkpoints()

    def have_checkpoints(self) -> bool:
        """Whether the tiny checkpoints are those that this release makes."""
        return _read(self.checkpoints / "made") == _digest(*(PROGRAMS / name for name in MADE_BY))

    def programs(self) -> Mapping[str, tuple[str, ...]]:
        """The words that start each engine whose software is here."""
        here = [pack for pack in PACKS.values() if self.installed(pack)]
        files = {**OWN, **{engine: file for of in REAL.values() for engine, file in of.items()}}
        return {
            engine: (str(self.python(pack)), str(PROGRAMS / files[engine])) for pack in here for engine in pack.engines
        }

    def checkpoint(self, model: str) -> str:
        """Where the tiny checkpoint of a model's architecture lies."""
        return str(self.checkpoints / CHECKPOINTS[model])

    def install(self, pack: Pack, say: Say) -> None:
        """Build its environment unless it is here; every line of progress goes to `say`.

        Raises PreflightFailed where that cannot be: no fitting Python, no source for a package, no network.
        """
        if self.installed(pack):
            say(f"{pack.name}: installed already")
            return
        if pack.always:
            raise PreflightFailed(
                f"{pack.about}: not there",
                hint=f"{sys.executable} -m pip install 'nemodeploy[sandbox]'",
            )
        with alone_in(self.directory, "NEMODEPLOY_ENGINES_DIR"):
            if _read(self._stamp(pack)) != _digest(pack.requirements):
                self._build(pack, say)
            if not self.have_checkpoints():
                self._make_checkpoints(pack, say)

    def _stamp(self, pack: Pack) -> Path:
        return self.directory / pack.name / "installed"

    def _build(self, pack: Pack, say: Say) -> None:
        begun, home = time.monotonic(), self.directory / pack.name
        say(f"{pack.name}: {pack.about}; {pack.size_gb:.1f} GB in {home}, about two minutes on two cores")
        free = shutil.disk_usage(self.directory).free / 1e9
        if free < pack.size_gb * 1.5:
            raise PreflightFailed(f"{free:.1f} GB are free there, {pack.size_gb * 1.5:.1f} are needed")
        python = find_python()
        say(f"{pack.name}: with Python {'.'.join(map(str, version_of(python) or ()))} ({python})")
        shutil.rmtree(home, ignore_errors=True)
        _run((python, "-m", "venv", str(home)), pack)
        pip = (str(self.python(pack)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries=2")
        self._torch(pip, pack, say)
        say(f"{pack.name}: {sum(1 for _ in _lines(pack.requirements))} packages more")
        _run((*pip, "--no-deps", "--requirement", str(pack.requirements)), pack)
        (home / "installed").write_text(_digest(pack.requirements))
        say(f"{pack.name}: installed after {time.monotonic() - begun:.0f} s")

    def _torch(self, pip: tuple[str, ...], pack: Pack, say: Say) -> None:
        """A CPU build where the index has one; otherwise whatever build it has, which is larger."""
        say(f"{pack.name}: torch {TORCH}")
        try:
            _run((*pip, f"torch=={TORCH}+cpu"), pack)
        except PreflightFailed as error:
            if not _NOT_THERE.search(str(error)):
                raise
            say(f"{pack.name}: no CPU build of torch on the package index; taking its default build, several GB on x86")
            _run((*pip, f"torch=={TORCH}"), pack)

    def _make_checkpoints(self, pack: Pack, say: Say) -> None:
        say("tiny checkpoints of the cards' architectures: training one, about half a minute")
        words = (str(self.python(pack)), str(PROGRAMS / "checkpoints.py"), str(PROGRAMS / GGUF), str(self.checkpoints))
        for line in _run(words, pack).splitlines():
            say(line)
        (self.checkpoints / "made").write_text(_digest(*(PROGRAMS / name for name in MADE_BY)))


def find_python() -> str:
    """A Python that the packs' packages are built for; the system's own first, since Triton embeds one like it.

    Raises PreflightFailed when there is none.
    """
    for candidate in ("/usr/bin/python3", sys.executable, *(f"python{major}.{minor}" for major, minor in PYTHONS)):
        path = shutil.which(candidate)
        if path and version_of(path) in PYTHONS:
            return path
    raise PreflightFailed(
        "the packs need Python 3.11, 3.12 or 3.13 with the modules venv and ensurepip",
        hint="apt-get install -y python3 python3-venv",
    )


def version_of(python: str) -> tuple[int, int] | None:
    """Its version, if it can make environments."""
    code = "import sys, venv, ensurepip; print(*sys.version_info[:2])"
    done = subprocess.run((python, "-c", code), capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    major, _, minor = done.stdout.strip().partition(" ")
    return (int(major), int(minor)) if done.returncode == 0 else None


def _run(words: tuple[str, ...], pack: Pack) -> str:
    """What a command prints. Raises PreflightFailed with its own reason when it fails."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, env={**kept, "PYTHONUTF8": "1"}
    )
    if done.returncode == 0:
        return done.stdout
    said = done.stderr
    missing = _NOT_THERE.search(said)
    if _OFFLINE.search(said):
        raise PreflightFailed(
            f"the pack {pack.name} needs the package index, which cannot be reached",
            hint="run it again with a network; PIP_INDEX_URL names another index",
        )
    if missing:
        raise PreflightFailed(
            f"the pack {pack.name} cannot be built here: No matching distribution found for {missing[1]}",
            hint="PIP_EXTRA_INDEX_URL names a further index",
        )
    lines = [line for line in said.splitlines() if line.strip()] or [f"status {done.returncode}"]
    raise PreflightFailed(f"the pack {pack.name} could not be built: {lines[-1]}")


def _lines(requirements: Path) -> Iterator[str]:
    return (line for line in requirements.read_text().splitlines() if line and not line.startswith("#"))


def _digest(*files: Path) -> str:
    whole = hashlib.sha256()
    for file in files:
        whole.update(file.read_bytes())
    return whole.hexdigest()


def _read(file: Path) -> str:
    with contextlib.suppress(OSError):
        return file.read_text()
    return ""
