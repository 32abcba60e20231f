"""What one look at a cluster shows: the queue's rows and the live run directories, put together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from nemodeploy.core import observation
from nemodeploy.core.observation import Final, RunDirectory
from nemodeploy.core.readiness import Seen
from nemodeploy.core.sections import Section
from nemodeploy.errors import ClusterUnreachable
from nemodeploy.schedulers.base import QueueRow
from nemodeploy.values import Token


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """One answer: whether the scheduler answered (None: was not asked), its rows by token, the live run directories.
    `told_by`: what the scheduler is called."""

    answered: bool | None
    rows: Mapping[str, tuple[QueueRow, ...]]
    directories: tuple[RunDirectory, ...]
    told_by: str = "Slurm"

    def directory(self, token: Token) -> RunDirectory:
        """The run directory of a token; an empty one when it is not listed."""
        return next((found for found in self.directories if found.token == token), RunDirectory(token=token))

    def named(self, name: str | None) -> tuple[RunDirectory, ...]:
        """The live run directories of a deployment (one, save for a moment during a change of hands), or all of them.

        Raises ClusterUnreachable where there is none and Slurm did not answer: a job may have lost its files.
        """
        found = tuple(one for one in self.directories if name in (None, one.token.name))
        if not found and not self.answered:
            raise ClusterUnreachable(f"{self.told_by} does not answer, so nobody can say that nothing is up")
        return found


def with_strays(
    listed: tuple[RunDirectory, ...], rows: Mapping[str, tuple[QueueRow, ...]], base: str, *, name: str = ""
) -> tuple[RunDirectory, ...]:
    """Jobs of ours, or of one name, that are alive without a run directory that we can see: no less real for that."""
    known = {str(directory.token) for directory in listed}
    strays = [token for token in strays_of(rows, base) if str(token) not in known and name in ("", token.name)]
    return (*listed, *(RunDirectory(token=token, submitted=True) for token in strays))


def strays_of(rows: Mapping[str, tuple[QueueRow, ...]], base: str) -> Iterator[Token]:
    """Tokens of living jobs, save those that are proven to run in another root of the same account: it has deployments
    of its own."""
    for name, found in rows.items():
        token = observation.read_token(name)
        ours = [row for row in found if not row.elsewhere or f"{row.directory}/".startswith(f"{base}/")]
        if token and any(row.kind != "ended" for row in ours):
            yield token


def tokens_of_row(row: QueueRow) -> tuple[Token, ...]:
    """Whose job it may be: its name and its working directory each name a token, and both can be changed."""
    words = (row.name, row.directory.rstrip("/").rpartition("/")[2])
    return tuple(dict.fromkeys(filter(None, map(observation.read_token, words))))


def current_row(rows: tuple[QueueRow, ...]) -> QueueRow | None:
    """Of several jobs with one token the one that holds or will hold something, else the latest."""
    alive = [row for row in rows if row.kind != "ended"]
    return max(alive or list(rows), key=lambda row: int(row.job_id), default=None)


def last_word(seen: Seen) -> str:
    """What the scheduler last said of a job that has ended, as final.json keeps it; empty: nothing."""
    said, row, ended = seen.last_word, seen.row, seen.directory.exit
    if not said or not seen.job_id:
        return ""
    final = Final(
        job_id=seen.job_id,
        restart=row.restart if row else ended.epoch.restart if ended else 0,
        told_by=row.told_by if row else seen.told_by,
        state=seen.last_state,
        said=said,
        nodes=row.nodes if isinstance(row, QueueRow) else "",
        elapsed_s=row.elapsed_s if row else None,
    )
    return final.as_text()


def row_of(final: Final | None) -> QueueRow | None:
    """That word as a row of the queue."""
    if final is None:
        return None
    return QueueRow(
        job_id=final.job_id,
        restart=final.restart,
        state=final.state,
        reason="None",
        elapsed_s=final.elapsed_s,
        left_s=None,
        start="",
        name="",
        nodes=final.nodes,
        told_by=final.told_by,
    )


def base_of(files: Section) -> str:
    """The directory of all run directories, which comes first among the files."""
    return files.text.partition("\n")[0]
