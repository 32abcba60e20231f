"""The client's own notes: what it was about to submit, for whoever has to find out after a crash.

One file per token, one line of JSON per step, so that any prefix of a file tells an earlier truth. A file is written
whole, flushed and renamed before any network. Nothing but convenience depends on it: the run directory on the cluster
and Slurm are the truth.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from nemodeploy.adapters import files
from nemodeploy.errors import BadInput
from nemodeploy.values import Token

VERSION = 2
SCHEMA = f"nemodeploy/journal@{VERSION}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """What is known of one token: its cluster, the last step (intent, submitted, found, adopted), and whose it is."""

    token: Token
    cluster: str
    step: str
    job_id: str
    process: str

    @property
    def is_running(self) -> bool:
        """Whether the very process that wrote it still runs on this machine."""
        return bool(self.process) and self.process == identity(self.process.partition(".")[0])

    @property
    def is_left(self) -> bool:
        """Whether the very process that wrote it is no more. Never judged by age; another machine's is not judged."""
        host = self.process.rpartition("@")[2]
        return host == socket.gethostname() and not self.is_running


def identity(pid: str) -> str:
    """`pid.start.boot@host`: names one process for ever; without a beginning when there is no such process."""
    try:
        start = Path(f"/proc/{int(pid)}/stat").read_text().rpartition(")")[2].split()[19]
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except (OSError, ValueError, IndexError):
        return f"@{socket.gethostname()}"
    return f"{int(pid)}.{start}.{boot}@{socket.gethostname()}"


class Journal:
    """A directory of small files that only their owner can read."""

    def __init__(self, directory: Path) -> None:
        """Nothing is created before the first note."""
        self.directory = directory / "journal"

    def note(self, token: Token, **facts: str) -> None:
        """Add what is known of a token. Raises BadInput when it cannot: then nothing must be sent."""
        path = self.directory / f"{token}.json"
        line = json.dumps({"schema": SCHEMA, "token": str(token), "process": identity(str(os.getpid())), **facts})
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            before = path.read_bytes().rpartition(b"\n") if files.plain(path).exists() else (b"", b"", b"")
            text = b"".join((*before[:2], line.encode(), b"\n"))
            files.write_whole(path, text, mode=0o600, durable=True)
        except OSError as error:
            raise BadInput(
                f"cannot write the journal {path}: {error.strerror}", hint="free the space, or set XDG_STATE_HOME"
            ) from error

    def add(self, token: Token, **facts: str) -> None:
        """The same once something was sent: a journal that cannot be written changes nothing any more."""
        with contextlib.suppress(BadInput):
            self.note(token, **facts)

    def forget(self, token: Token) -> None:
        """The token is verified gone."""
        with contextlib.suppress(OSError):
            (self.directory / f"{token}.json").unlink(missing_ok=True)

    def entries(self) -> tuple[list[Entry], list[BadInput]]:
        """Every note, oldest token first, and what is wrong with those that cannot be read."""
        found: list[Entry] = []
        wrong: list[BadInput] = []
        for path in sorted(self.directory.glob("*.json")) if self.directory.is_dir() else []:
            try:
                entry = read_entry(path.stem, path.read_bytes())
            except (OSError, ValueError) as error:
                wrong.append(_unreadable(path, str(error)))
                continue
            if entry:
                found.append(entry)
        return found, wrong

    def check(self) -> None:
        """Refuse a journal that others may have written to, or that a newer version keeps. Raises BadInput."""
        directory = self.directory
        try:
            about = directory.lstat()
        except FileNotFoundError:
            return
        except OSError as error:
            raise BadInput(
                f"cannot read the journal {directory}: {error.strerror}", hint="set XDG_STATE_HOME to another directory"
            ) from error
        where = shlex.quote(str(directory))
        if not stat.S_ISDIR(about.st_mode):
            raise BadInput(f"the journal {directory} is no directory", hint=f"mv {where} {where}.old")
        if about.st_uid != os.geteuid():
            raise BadInput(f"the journal {directory} belongs to somebody else", hint=f"sudo chown -R $USER {where}")
        if about.st_mode & 0o022:
            raise BadInput(f"others may write to the journal {directory}", hint=f"chmod 700 {where}")
        _, wrong = self.entries()
        if wrong:
            raise wrong[0]


def read_entry(name: str, data: bytes) -> Entry | None:
    """What the lines of a file add up to. A torn last line is passed over; None: nothing was written down yet.

    Raises ValueError for what no crash explains: another kind of file, a damaged line, a newer version.
    """
    whole, _, _ = data.rpartition(b"\n")
    facts: dict[str, str] = {}
    for number, line in enumerate(whole.decode().splitlines() if whole else [], start=1):
        try:
            read = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number} is damaged") from error
        kind, _, version = str(read.get("schema", "") if isinstance(read, dict) else "").partition("@")
        if kind != "nemodeploy/journal" or not version.isdigit() or read.get("token") != name:
            raise ValueError(f"line {number} is not a note of {name}")
        if int(version) > VERSION:
            raise ValueError("a newer version of nemodeploy wrote it")
        facts |= {key: value for key, value in read.items() if isinstance(value, str)}
    if not facts:
        return None
    kept = {key: facts.get(key, "") for key in ("cluster", "step", "job_id", "process")}
    return Entry(token=Token(name), **kept)


def _unreadable(path: Path, why: str) -> BadInput:
    return BadInput(
        f"the journal's note {path} cannot be used: {why}",
        hint=f"rm {shlex.quote(str(path))}    nothing is lost: nemodeploy status asks the clusters themselves",
    )
