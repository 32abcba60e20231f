"""One cluster as the use cases see it: look, prepare, cancel, archive. One remote call each."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from nemodeploy.adapters.transports.base import Transport
from nemodeploy.core import observation, sections
from nemodeploy.core.observation import RunDirectory
from nemodeploy.core.readiness import Seen
from nemodeploy.core.sections import Section
from nemodeploy.core.spec import Cluster
from nemodeploy.errors import ClusterUnreachable, OutcomeUnknown
from nemodeploy.schedulers import SCHEDULERS
from nemodeploy.schedulers.base import QueueRow
from nemodeploy.values import Command, Token

log = logging.getLogger("nemodeploy")

# Shell text: `live` becomes the token that has the name of the deployment in `$d`; empty when none has.
FOLLOW_LINKS = """\
live=$(readlink "$d/active")
while [ -n "$live" ] && next=$(readlink "$d/after.$live"); do live=$next; done
"""
LOOK_WITHIN_S = 60.0
LOG_TAIL_BYTES = 65536


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """One answer: whether Slurm answered (None: was not asked), its rows by job name, the live run directories."""

    answered: bool | None
    rows: Mapping[str, tuple[QueueRow, ...]]
    directories: tuple[RunDirectory, ...]

    def directory(self, token: Token) -> RunDirectory:
        """The run directory of a token; an empty one when it is not listed."""
        return next((found for found in self.directories if found.token == token), RunDirectory(token=token))

    def named(self, name: str) -> tuple[RunDirectory, ...]:
        """The live run directories of a deployment; one, save for a moment during a change of hands."""
        return tuple(found for found in self.directories if found.token.name == name)


class Site:
    """A cluster and the connection to it."""

    def __init__(self, cluster: Cluster, transport: Transport, nonce: Callable[[], str]) -> None:
        """Nothing is connected before the first question."""
        self.cluster, self.transport, self.nonce = cluster, transport, nonce
        self.scheduler = SCHEDULERS[cluster.scheduler]

    @property
    def root(self) -> str:
        """The cluster's root as shell text, expanded there."""
        root = self.cluster.root
        return '"$HOME"' + shlex.quote(root[5:]) if root.startswith("$HOME") else shlex.quote(root)

    def directory(self, token: Token) -> str:
        """A token's run directory as shell text."""
        return f"{self.root}/deployments/{token.name}/{token}"

    def ask(self, parts: Mapping[str, str], *, within_s: float = LOOK_WITHIN_S) -> Mapping[str, Section]:
        """Run parts of shell text in one remote call. Raises ClusterUnreachable unless every part came back whole."""
        nonce = self.nonce()
        done = self.transport.run(Command(script=sections.script(nonce, parts), deadline_s=within_s))
        found = sections.parse(nonce, done.stdout)
        log.debug("asked %s for %s: %d bytes", self.cluster.name, ", ".join(parts), len(done.stdout))
        missing = [name for name in parts if name not in found]
        if missing:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise ClusterUnreachable(
                f"cluster {self.cluster.name} did not answer completely{': ' + said[-1][:200] if said else ''}",
                hint="run the same command again",
            )
        return found

    def look(self, *, controller: bool = True) -> Look:
        """All deployments at once: the run directories, and with `controller` Slurm's queue."""
        parts = {"files": observation.list_script(self.root)}
        if controller:
            parts = {"queue": self.scheduler.queue_script(self.root), **parts}
        answer = self.ask(parts)
        rows: dict[str, tuple[QueueRow, ...]] = {}
        queue = answer.get("queue")
        if queue and queue.status == 0:
            for row in self.scheduler.parse_queue(queue.text):
                rows[row.name] = (*rows.get(row.name, ()), row)
        return Look(
            answered=queue.status == 0 if queue else None,
            rows=rows,
            directories=_with_strays(observation.parse_list(answer["files"].text), rows),
        )

    def see(self, look: Look, directory: RunDirectory) -> Seen:
        """One deployment out of a look."""
        return self.see_all(look, (directory,))[0]

    def see_all(self, look: Look, directories: Sequence[RunDirectory]) -> tuple[Seen, ...]:
        """Deployments out of a look; asks once more, for all together, when Slurm did not list some of their jobs."""
        rows = [current_row(look.rows.get(str(directory.token), ())) for directory in directories]
        jobs = [
            row.job_id if row else self.scheduler.parse_job_id(directory.submit_out)
            for row, directory in zip(rows, directories, strict=True)
        ]
        lost = [job for row, job in zip(rows, jobs, strict=True) if row is None and look.answered and job]
        forgotten = self._forgotten(lost) if lost else frozenset()
        return tuple(
            Seen(directory=directory, answered=bool(look.answered), row=row, job_id=job, forgotten=job in forgotten)
            for directory, row, job in zip(directories, rows, jobs, strict=True)
        )

    def _forgotten(self, jobs: Sequence[str]) -> frozenset[str]:
        """Those of which Slurm says, twice, that it holds nothing for them."""
        questions = {
            f"{job}.{time}": self.scheduler.forgotten_script(job) for time in ("first", "second") for job in jobs
        }
        questions[f"{jobs[0]}.second"] = f"sleep 1\n{questions[f'{jobs[0]}.second']}"
        answers = self.ask(questions, within_s=LOOK_WITHIN_S + 20.0 * len(jobs))
        said = {name for name, part in answers.items() if self.scheduler.is_forgotten(part.status, part.text)}
        return frozenset(job for job in jobs if {f"{job}.first", f"{job}.second"} <= said)

    def cancel(self, token: Token, job_id: str, *, gently: bool) -> Section:
        """Take a job back: the mark that keeps a late start from serving, then the signal."""
        mark = f"touch {self.directory(token)}/revoked 2>/dev/null"
        return self.ask({"cancel": f"{mark}\n{self.scheduler.cancel_script(job_id, gently=gently)}"})["cancel"]

    def cancel_by_name(self, token: Token) -> None:
        """Take back whatever has the token, in one call and without looking first; proves nothing."""
        mark = f"touch {self.directory(token)}/revoked 2>/dev/null"
        script = f"{mark}; {self.scheduler.cancel_by_name_script(str(token), self.root)}"
        self.ask({"cancel": script})

    def revoke(self, token: Token) -> None:
        """Leave the mark by which a job that starts later ends at once."""
        self.ask({"revoke": f"touch {self.directory(token)}/revoked 2>/dev/null; exit 0"})

    def withhold(self, token: Token) -> bool:
        """Take `submit/go` so that nobody can submit any more. True is proof that nothing was submitted."""
        script = (
            f"umask 077; mkdir -p {self.directory(token)}/submit && cd {self.directory(token)} || exit 1\n"
            "[ ! -e submit/withheld ] || exit 0\n"
            "mkdir submit/go 2>/dev/null && touch submit/withheld revoked\n"
        )
        return self.ask({"go": script})["go"].status == 0

    def archive(self, token: Token) -> None:
        """Move a verified-ended token out of sight; its logs stay readable, its secrets do not stay."""
        directory = self.directory(token)
        script = f"rm -f {directory}/secrets.env; mkdir -p {self.root}/archive && mv {directory} {self.root}/archive/"
        self.ask({"archive": f"{script} 2>/dev/null; exit 0"})

    def last_answer(self, token: Token) -> str:
        """The raw answer of the last generation that the job itself asked for: status, newline, body."""
        script = f"head -c {LOG_TAIL_BYTES} {self.directory(token)}/current/probe.body"
        return self.ask({"answer": script})["answer"].text

    def logs_of(self, token: Token) -> Mapping[str, str]:
        """The ends of all log files of a token's last run, by file name, live or archived."""
        script = (
            f"cd {self.directory(token)} 2>/dev/null || cd {self.root}/archive/{token} || exit 1\n"
            f"tail -v -c {LOG_TAIL_BYTES} current/logs/*.log ./*.log submit/sbatch.err 2>/dev/null\nexit 0\n"
        )
        return split_tails(self.ask({"logs": script})["logs"].text)


def _with_strays(
    listed: tuple[RunDirectory, ...], rows: Mapping[str, tuple[QueueRow, ...]]
) -> tuple[RunDirectory, ...]:
    """Jobs of ours that are alive without a run directory that we can see: no less real for that."""
    known = {str(directory.token) for directory in listed}
    names = [name for name, found in rows.items() if any(row.kind != "ended" for row in found) and name not in known]
    strays = filter(None, map(observation.read_token, names))
    return (*listed, *(RunDirectory(token=token, submitted=True) for token in strays))


def current_row(rows: tuple[QueueRow, ...]) -> QueueRow | None:
    """Of several jobs with one token the one that holds or will hold something, else the latest."""
    alive = [row for row in rows if row.kind != "ended"]
    return max(alive or list(rows), key=lambda row: int(row.job_id), default=None)


def tail_header(line: str) -> str:
    """The file name in a heading of `tail -v`, without its directory; empty for any other line."""
    return line[4:-4].rpartition("/")[2] if line.startswith("==> ") and line.endswith(" <==") else ""


def split_tails(text: str) -> Mapping[str, str]:
    """The output of `tail -v` over several files, by file name."""
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines(keepends=True):
        header = tail_header(line.rstrip("\n"))
        if header:
            name = header
            found[name] = ""
        elif name:
            found[name] += line
    return found


def unknown_outcome(token: Token, cluster: Cluster, why: str) -> OutcomeUnknown:
    """A job may be alive, and this is how to settle it."""
    return OutcomeUnknown(
        f"the outcome is unknown: {why}; a job named {token} may be queued or running on {cluster.name}",
        hint=f"nemodeploy status {token.name} --cluster {cluster.name}   settles it; nothing will be submitted twice",
        token=str(token),
    )
