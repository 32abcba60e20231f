"""One cluster as the use cases see it: look, prepare, cancel, archive. One remote call each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from nemodeploy.adapters.transports.base import Transport
from nemodeploy.app.look import Look, base_of, current_row, strays_of, with_strays
from nemodeploy.core import images, observation, sections, submission
from nemodeploy.core.foreign import wash_line
from nemodeploy.core.history import HISTORY_SCRIPT, History, parse_history
from nemodeploy.core.login_host import quoted
from nemodeploy.core.observation import RunDirectory
from nemodeploy.core.plan import Plan
from nemodeploy.core.readiness import Seen
from nemodeploy.core.remains import Remains, parse_remains, remains_script
from nemodeploy.core.sections import Section
from nemodeploy.core.spec import Cluster
from nemodeploy.core.submission import Receipt
from nemodeploy.core.tails import split_tails
from nemodeploy.errors import ClusterUnreachable, OutcomeUnknown
from nemodeploy.schedulers import SCHEDULERS
from nemodeploy.schedulers.base import Fate, Findings, QueueRow, Trace
from nemodeploy.values import Command, Token

log = logging.getLogger("nemodeploy")

LOOK_WITHIN_S = 60.0
RECEIPT_CALL_WITHIN_S = submission.RECEIPT_WITHIN_S + 60.0
PREFLIGHT_WITHIN_S = 150.0
LOG_TAIL_BYTES = 65536


@dataclass(frozen=True, kw_only=True, slots=True)
class Taking:
    """How taking a name went: the token that has it instead of ours, or what kept the run directory from being made,
    or neither, and then the receipt."""

    held_by: Token | None = None
    problem: str = ""
    receipt: Receipt = field(default_factory=Receipt)


class Site:
    """A cluster and the connection to it."""

    def __init__(self, cluster: Cluster, transport: Transport, nonce: Callable[[], str]) -> None:
        """Nothing is connected before the first question."""
        self.cluster, self.transport, self.nonce = cluster, transport, nonce
        self.scheduler = SCHEDULERS[cluster.scheduler]

    @property
    def root(self) -> str:
        """The cluster's root as shell text, expanded there."""
        return quoted(self.cluster.root)

    def directory(self, token: Token) -> str:
        """A token's run directory as shell text."""
        return f"{self.root}/deployments/{token.name}/{token}"

    def enter(self, token: Token) -> str:
        """Shell text: go to a token's run directory, live or archived, or end."""
        return f"cd {self.directory(token)} 2>/dev/null || cd {self.root}/archive/{token} || exit 1"

    def ask(self, parts: Mapping[str, str], *, within_s: float = LOOK_WITHIN_S) -> Mapping[str, Section]:
        """Run parts of shell text in one remote call. Raises ClusterUnreachable unless every part came back whole."""
        nonce = self.nonce()
        script = self.scheduler.prelude + sections.script(nonce, parts)
        done = self.transport.run(Command(script=script, deadline_s=within_s))
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
        queue = answer.get("queue")
        rows = self._rows(queue)
        return Look(
            answered=queue.status == 0 if queue else None,
            rows=rows,
            directories=with_strays(observation.parse_list(answer["files"].text), rows, base_of(answer["files"])),
        )

    def see(self, look: Look, directory: RunDirectory) -> Seen:
        """One deployment out of a look."""
        return self.see_all(look, (directory,))[0]

    def see_all(self, look: Look, directories: Sequence[RunDirectory]) -> tuple[Seen, ...]:
        """Deployments out of a look; asks once more, for all together, what became of jobs that Slurm did not list, and
        whether those that seem silent are."""
        rows = [current_row(look.rows.get(str(directory.token), ())) for directory in directories]
        jobs = [
            row.job_id if row else self.scheduler.parse_job_id(directory.submit_out)
            for row, directory in zip(rows, directories, strict=True)
        ]
        lost = {
            directory.token: job
            for row, job, directory in zip(rows, jobs, directories, strict=True)
            if row is None and look.answered and (job or directory.submitted) and not directory.withheld
        }
        found = [
            Seen(
                directory=directory,
                answered=bool(look.answered),
                row=row,
                job_id=job,
                refused=self._was_refused(directory),
            )
            for row, job, directory in zip(rows, jobs, directories, strict=True)
        ]
        quiet = [seen.directory.token for seen in found if seen.may_be_silent]
        if not lost and not quiet:
            return tuple(found)
        traces = self.trace(lost, quiet)
        return tuple(
            replace(
                seen,
                job_id=(trace.job_id if trace else "") or seen.job_id,
                fate=trace.fate.value if trace else "",
                account=trace.state if trace else "",
                still=still,
            )
            for seen in found
            for trace, still in (traces.get(seen.directory.token, (None, False)),)
        )

    def _was_refused(self, directory: RunDirectory) -> bool:
        status = directory.submit_status
        return status is not None and (status == 127 or self.scheduler.was_refused(status, directory.submit_error))

    def trace(
        self, lost: Mapping[Token, str], quiet: Sequence[Token] = ()
    ) -> Mapping[Token, tuple[Trace | None, bool]]:
        """What became of unlisted jobs (their ids by token, empty: not known), and whether their files are still.

        Slurm is asked twice, so that a controller in the middle of its start is not believed. Of `quiet` ones only the
        files are looked at.
        """
        parts = {f"silence.{token}": observation.silence_script(self.directory(token)) for token in quiet}
        for number, (token, job) in enumerate(lost.items()):
            ask = self.scheduler.trace_script(str(token), job, self.directory(token))
            parts[f"first.{token}"] = ask
            parts[f"second.{token}"] = ask if number else f"sleep 1\n{ask}"
            parts[f"silence.{token}"] = observation.silence_script(self.directory(token))
        order = sorted(parts, key=lambda name: name.startswith("second."))  # stable: all second ones after the pause
        answers = self.ask({name: parts[name] for name in order}, within_s=LOOK_WITHIN_S + 40.0 * len(lost))
        still = {token: observation.is_silent(answers[f"silence.{token}"].text) for token in (*lost, *quiet)}
        found: dict[Token, tuple[Trace | None, bool]] = {token: (None, still[token]) for token in quiet}
        for token, job in lost.items():
            first, second = (
                self.scheduler.parse_trace(str(token), job, answers[f"{time}.{token}"].text)
                for time in ("first", "second")
            )
            doubtful = first.fate is not second.fate
            trace = Trace(fate=Fate.DOUBT, job_id=second.job_id or first.job_id) if doubtful else second
            found[token] = (trace, still[token])
        return found

    def preflight(self, plan: Plan, files: Mapping[str, str], *, unless_taken: bool) -> Findings | None:
        """What the site has against a deployment. None: not judged, since somebody has the name already."""
        taken = f"[ -d {self.root}/deployments/{plan.name}/active/. ] && echo taken; exit 0"
        queue = f"(\n{self.scheduler.queue_script(self.root)}\n) | grep ' nd-{plan.name}-'; exit 0"
        parts = {
            "queue": queue,  # before the files: a job is younger than its directory
            "files": f'{observation.base_script(self.root)}; ls "$d/{plan.name}" 2>/dev/null; exit 0',
            "taken": taken if unless_taken else ":",
            "image": images.look_script(self.root, plan.imported) if plan.imported else ":",
            **self.scheduler.preflight_parts(plan, files),
        }
        answers = self.ask(parts, within_s=PREFLIGHT_WITHIN_S)
        if answers["taken"].text.strip() == "taken":
            return None
        found = self.scheduler.judge_preflight(plan, answers)
        there = answers["files"].text.split("\n")
        ends = f"{self.cluster.command('down', plan.name)}   ends it"
        strays = [
            (f"{token} is alive without its run directory", ends)
            for token in strays_of(self._rows(answers["queue"]), base_of(answers["files"]))
            if token.name == plan.name and str(token) not in there
        ]
        image = images.told(plan, answers["image"], self.cluster)
        return replace(found, problems=(*strays, *found.problems), says=found.says + image)

    def _rows(self, queue: Section | None) -> Mapping[str, tuple[QueueRow, ...]]:
        """The queue by job name; empty where it was not asked or did not answer."""
        rows: dict[str, tuple[QueueRow, ...]] = {}
        if queue and queue.status == 0:
            for row in self.scheduler.parse_queue(queue.text):
                rows[row.name] = (*rows.get(row.name, ()), row)
        return rows

    def take(self, token: Token, files: Mapping[str, str], after: Token | None) -> Taking:
        """Make the run directory, take the name, and submit: one remote call.

        Raises ClusterUnreachable when it broke off; how far it came is then told by `receipt`.
        """
        parts = {
            "take": submission.take_script(self.root, token, files, after),
            "receipt": submission.receipt_script(self.directory(token), token),
        }
        answer = self.ask(parts, within_s=RECEIPT_CALL_WITHIN_S)
        taken, receipt = answer["take"], answer["receipt"]
        if taken.status == submission.TAKEN:
            held_by = observation.read_token(taken.text.split()[-1])
            problem = "" if held_by else f"{self.root}/deployments/{token.name}/active leads to no deployment of ours"
            return Taking(held_by=held_by, problem=problem)
        if taken.status:
            return Taking(problem=" ".join(wash_line(taken.text).split()) or "no reason was given")
        return Taking(receipt=submission.parse_receipt(receipt.status, receipt.text))

    def receipt(self, token: Token) -> Receipt:
        """Submit a token that has the name unless somebody has; then its receipt."""
        script = submission.receipt_script(self.directory(token), token)
        part = self.ask({"receipt": script}, within_s=RECEIPT_CALL_WITHIN_S)["receipt"]
        return submission.parse_receipt(part.status, part.text)

    def keep_job_id(self, token: Token, job_id: str) -> None:
        """Write the id of a job that had to be looked up into the receipt."""
        directory = self.directory(token)
        self.ask({"id": f"cd {directory} && echo {int(job_id)} >submit/found && mv submit/found submit/sbatch.out"})

    def renew(self, token: Token, ttl_s: int | None = None) -> int | None:
        """Renew a lease, for the same time as before or for another. Returns its seconds; None: it has none.

        Raises ClusterUnreachable when it could not be written: then the old one goes on running out.
        """
        script = submission.renew_script(self.directory(token), self.nonce(), ttl_s)
        part = self.ask({"lease": script})["lease"]
        if part.status == submission.NO_LEASE:
            return None
        if part.status or not part.text.strip().isdigit():
            raise self._not_written(token, "lease", part)
        return int(part.text)

    def drop_lease(self, token: Token) -> None:
        """From now on it stays up by itself."""
        part = self.ask({"lease": f"rm -f {self.directory(token)}/lease 2>&1"})["lease"]
        if part.status:
            raise self._not_written(token, "lease", part)

    def _not_written(self, token: Token, what: str, part: Section) -> ClusterUnreachable:
        said = " ".join(part.text.split()[-20:])
        return ClusterUnreachable(
            f"the {what} of {token} cannot be written on {self.cluster.name}{': ' + said if said else ''}",
            hint=f"is its disk full? df {self.cluster.root} on the login host",
            token=str(token),
        )

    def cancel(self, token: Token, *, gently: bool) -> Section:
        """Take back whatever has the token: the mark that keeps a late start from serving, then the signal."""
        mark = f"touch {self.directory(token)}/revoked 2>/dev/null"
        return self.ask({"cancel": f"{mark}\n{self.scheduler.cancel_script(str(token), self.root, gently=gently)}"})[
            "cancel"
        ]

    def revoke(self, token: Token) -> None:
        """Leave the mark by which a job that starts later ends at once."""
        self.ask({"revoke": f"touch {self.directory(token)}/revoked 2>/dev/null; exit 0"})

    def withhold(self, token: Token) -> bool:
        """Take `submit/go` so that nobody can submit any more. True is proof that nothing was submitted."""
        return self.ask({"go": submission.withhold_script(self.directory(token))})["go"].status == 0

    def archive(self, token: Token) -> None:
        """Move a verified-ended token out of sight; its logs stay readable, its secrets do not stay."""
        directory = self.directory(token)
        script = (
            f"rm -f {directory}/secrets.env; mkdir -p {self.root}/archive &&\n"
            f"touch -c {directory} && mv {directory} {self.root}/archive/"  # its age counts from here
        )
        self.ask({"archive": f"{{ {script}\n}} 2>/dev/null; exit 0"})

    def remains(self) -> Remains:
        """What lies here besides what is up."""
        return parse_remains(self.ask({"remains": remains_script(self.root)})["remains"].text)

    def remove(self, token: Token) -> None:
        """Delete what is left of a token that is not up: its archived run directory, or one that never got the name."""
        self.ask({"remove": submission.remove_script(self.root, token)})

    def logs_of(self, token: Token, *, tail_bytes: int = LOG_TAIL_BYTES) -> Mapping[str, str]:
        """The ends of all log files of a token's last run, by file name, live or archived."""
        script = (
            f"{self.enter(token)}\n"
            f"tail -v -c {tail_bytes} current/logs/*.log ./*.log submit/sbatch.err 2>/dev/null\nexit 0\n"
        )
        found = split_tails(self.ask({"logs": script})["logs"].text)
        return {path.rpartition("/")[2]: text for path, text in found.items()}

    def manifest_of(self, token: Token) -> str:
        """manifest.json, live or archived."""
        return self.ask({"manifest": f"{self.enter(token)}\ncat manifest.json"})["manifest"].text

    def history(self, token: Token) -> History:
        """What a token has been through, live or archived."""
        return parse_history(self.ask({"history": f"{self.enter(token)}\n{HISTORY_SCRIPT}"})["history"].text)

    def archived(self, *, within_s: float) -> tuple[Seen, ...]:
        """What has ended and was archived so lately; nobody is asked about it any more."""
        script = observation.archive_script(self.root, max(1, round(within_s / 60)))
        found = observation.parse_list(self.ask({"archive": script})["archive"].text)
        return tuple(
            Seen(
                directory=one,
                answered=True,
                row=None,
                job_id=self.scheduler.parse_job_id(one.submit_out),
                refused=self._was_refused(one),
                fate=Fate.ENDED.value,
            )
            for one in found
        )


def unknown_outcome(token: Token, cluster: Cluster, why: str) -> OutcomeUnknown:
    """A job may be alive, and this is how to settle it."""
    return OutcomeUnknown(
        f"the outcome is unknown: {why}; a job named {token} may be queued or running on {cluster.name}",
        hint=f"nemodeploy status {token.name} --cluster {cluster.called}   settles it; nothing will be submitted twice",
        token=str(token),
    )
