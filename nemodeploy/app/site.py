"""One cluster as the use cases see it: look, prepare, cancel, archive. One remote call each."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from nemodeploy.adapters.transports.base import OUTPUT_CAP, Transport
from nemodeploy.app.look import Look, base_of, current_row, last_word, strays_of, tokens_of_row, with_strays
from nemodeploy.app.proof import proven
from nemodeploy.app.targets import Target, cancel_script
from nemodeploy.core import images, observation, run_directory, sections, submission
from nemodeploy.core.foreign import wash_line
from nemodeploy.core.history import HISTORY_SCRIPT, History, parse_history
from nemodeploy.core.login_host import quoted
from nemodeploy.core.masking import MASK_FUNCTION, hide, hide_in
from nemodeploy.core.observation import RunDirectory
from nemodeploy.core.plan import Plan
from nemodeploy.core.readiness import Seen
from nemodeploy.core.remains import Remains, parse_remains, remains_script
from nemodeploy.core.sections import Section
from nemodeploy.core.spec import Cluster
from nemodeploy.core.submission import Receipt
from nemodeploy.core.tails import split_tails
from nemodeploy.core.witnesses import Trace, Word, proves_end
from nemodeploy.errors import ClusterUnreachable, OutcomeUnknown
from nemodeploy.schedulers import SCHEDULERS
from nemodeploy.schedulers.base import Findings, QueueRow
from nemodeploy.values import Command, Completed, Token

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

    def __init__(
        self, cluster: Cluster, transport: Transport, nonce: Callable[[], str], *, hidden: tuple[str, ...] = ()
    ) -> None:
        """Nothing is connected before the first question. `hidden`: what no text that servers wrote may show."""
        self.cluster, self.transport, self.nonce, self.hidden = cluster, transport, nonce, hidden
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
        script = self.scheduler.prelude(self.cluster) + sections.script(nonce, parts)
        done = self.transport.run(Command(script=script, deadline_s=within_s))
        found = {} if done.is_cut else sections.parse(nonce, done.stdout)
        log.debug("asked %s for %s: %d bytes", self.cluster.name, ", ".join(parts), len(done.stdout))
        missing = [name for name in parts if name not in found]
        if missing:
            raise self._incomplete(done)
        return found

    def _incomplete(self, done: Completed) -> ClusterUnreachable:
        """An answer that is not whole says nothing; least of all that something is not there."""
        if done.is_cut:
            return ClusterUnreachable(
                f"the answer of cluster {self.cluster.name} was longer than {OUTPUT_CAP // 2**20} MiB and was cut",
                hint=f"nemodeploy reap{self.cluster.option}   takes old archived runs away",
            )
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        return ClusterUnreachable(
            f"cluster {self.cluster.name} did not answer completely{': ' + said[-1][:200] if said else ''}",
            hint="run the same command again",
        )

    def look(self, *, controller: bool = True, name: str = "") -> Look:
        """All deployments at once, or those of a name: the run directories, and with `controller` Slurm's queue."""
        parts = {"files": run_directory.list_script(self.root, name)}
        if controller:
            parts = {"queue": self.scheduler.queue_script(self.root), **parts}
        answer = self.ask(parts)
        queue = answer.get("queue")
        rows = self._rows(queue)
        base = self.base(answer["files"])
        return Look(
            told_by=self.scheduler.called,
            answered=queue.status == 0 if queue else None,
            rows=rows,
            directories=with_strays(self._directories(answer["files"]), rows, base, name=name),
        )

    def _directories(self, files: Section) -> tuple[RunDirectory, ...]:
        return tuple(hide_in(one, self.hidden) for one in observation.parse_list(files.text))

    def see(self, look: Look, directory: RunDirectory) -> Seen:
        """One deployment out of a look."""
        return self.see_all(look, (directory,))[0]

    def see_all(self, look: Look, directories: Sequence[RunDirectory]) -> tuple[Seen, ...]:
        """Deployments out of a look, with what the witnesses of an end say where one seems to have come. What is proven
        to have ended is archived here, so that no later look has to prove it again."""
        found = proven({one.token: self._seen(look, one) for one in directories}, self.trace)
        ended = {token: last_word(seen) for token, seen in found.items() if seen.gone and seen.directory.manifest}
        if ended:
            with contextlib.suppress(ClusterUnreachable):  # the next look does it
                self.archive(ended)
        return tuple(found[directory.token] for directory in directories)

    def _seen(self, look: Look, directory: RunDirectory) -> Seen:
        """What the look itself shows of one deployment."""
        row = current_row(look.rows.get(str(directory.token), ()))
        seen = Seen(
            directory=directory,
            answered=bool(look.answered),
            row=row,
            job_id=row.job_id if row else self.scheduler.parse_job_id(directory.submit_out),
            refused=self.was_refused(directory),
            told_by=self.scheduler.called,
        )
        if row is None or row.kind != "ended":
            return seen
        trace = Trace(job_id=row.job_id, queue=Word.ENDED)
        return replace(seen, trace=trace, gone=proves_end(trace, own_word=seen.own_word))

    def base(self, files: Section) -> str:
        """Where the run directories lie. Raises ClusterUnreachable where that cannot be told, or they cannot be read:
        then it is not known whether there are any."""
        base = base_of(files)
        if files.status or not base.startswith("/"):
            said = " ".join(files.text.split())[-200:] or "no reason was given"
            raise ClusterUnreachable(
                f"the run directories in {self.cluster.root} on {self.cluster.name} cannot be read: {said}",
                hint=f"ls {self.cluster.root} on the login host shows whether its file system answers",
            )
        return base

    def was_refused(self, directory: RunDirectory) -> bool:
        """Whether the submitter's end proves that there never was a job."""
        status = directory.submit_status
        if self.scheduler.parse_job_id(directory.submit_out):
            return False
        return status is not None and (status == 127 or self.scheduler.was_refused(status, directory.submit_error))

    def trace(
        self, jobs: Mapping[Token, str], quiet: Sequence[Token] = (), *, after_s: float = 0.0
    ) -> Mapping[Token, Trace]:
        """What the witnesses say of jobs (their ids by token, empty: not known), after a pause. Of `quiet` ones only
        the files are looked at."""
        parts = {"pause": f"sleep {after_s:g}"} if after_s else {}
        for token in (*jobs, *quiet):
            parts[f"silence.{token}"] = run_directory.silence_script(self.directory(token))
        asked = {str(token): (job, self.directory(token)) for token, job in jobs.items()}
        if asked:
            parts["jobs"] = self.scheduler.trace_script(asked)
        answers = self.ask(parts, within_s=LOOK_WITHIN_S + after_s + 20.0 * bool(jobs))
        silences = {token: run_directory.parse_silence(answers[f"silence.{token}"].text) for token in (*jobs, *quiet)}
        found = {token: Trace(silence=silences[token]) for token in quiet}
        told = self.scheduler.parse_trace(asked, answers["jobs"].text) if asked else {}
        found |= {token: replace(told[str(token)], silence=silences[token]) for token in jobs}
        return found

    def preflight(self, plan: Plan, files: Mapping[str, str], *, unless_taken: bool) -> Findings | None:
        """What the site has against a deployment. None: not judged, since somebody has the name already."""
        taken = f"[ -d {self.root}/deployments/{plan.name}/active/. ] && echo taken; exit 0"
        queue = f"(\n{self.scheduler.queue_script(self.root)}\n) | grep '[ /]nd-{plan.name}-'; exit 0"
        parts = {
            "queue": queue,  # before the files: a job is younger than its directory
            "files": f'{run_directory.base_script(self.root)}ls "$d/{plan.name}" 2>/dev/null; exit 0',
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
            for token in strays_of(self._rows(answers["queue"]), self.base(answers["files"]))
            if token.name == plan.name and str(token) not in there
        ]
        image = images.told(plan, answers["image"], self.cluster)
        return replace(found, problems=(*strays, *found.problems), says=found.says + image)

    def _rows(self, queue: Section | None) -> Mapping[str, tuple[QueueRow, ...]]:
        """The queue by token; empty where it was not asked or did not answer."""
        rows: dict[str, tuple[QueueRow, ...]] = {}
        if queue and queue.status == 0:
            for row in self.scheduler.parse_queue(queue.text):
                for token in tokens_of_row(row):
                    rows[str(token)] = (*rows.get(str(token), ()), row)
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

    def cancel(self, targets: Sequence[Target], *, gently: bool, reason: str = "") -> Section:
        """Take back everything that has these tokens, in one call. `reason`: why, for later readers; the first one is
        kept."""
        script = cancel_script(self.scheduler, self.root, targets, self.directory, gently=gently, reason=reason)
        return self.ask({"cancel": script})["cancel"]

    def revoke(self, token: Token, reason: str = "") -> None:
        """Leave the mark by which a job that starts later ends at once, with the reason as `cancel` does."""
        self.ask({"revoke": f"{run_directory.revoke_script(self.directory(token), reason)}; exit 0"})

    def withhold(self, token: Token) -> bool:
        """Take `submit/go` so that nobody can submit any more. True is proof that nothing was submitted."""
        return self.ask({"go": submission.withhold_script(self.directory(token))})["go"].status == 0

    def archive(self, ended: Mapping[Token, str]) -> None:
        """Move verified-ended tokens out of sight, each with the scheduler's last word on it (the text of final.json;
        empty: there is none). Their logs stay readable, their secrets do not stay."""
        parts = {
            f"archive.{token}": run_directory.put_away_script(self.root, self.directory(token), final)
            for token, final in ended.items()
        }
        self.ask(parts)

    def remains(self) -> Remains:
        """What lies here besides what is up."""
        return parse_remains(self.ask({"remains": remains_script(self.root)})["remains"].text)

    def remove(self, token: Token) -> None:
        """Delete what is left of a token that is not up: its archived run directory, or one that never got the name."""
        self.ask({"remove": submission.remove_script(self.root, token)})

    def logs_of(self, token: Token, *, tail_bytes: int = LOG_TAIL_BYTES) -> Mapping[str, str]:
        """The ends of all log files of a token's last run, by file name, live or archived."""
        script = (
            f"{self.enter(token)}\n{MASK_FUNCTION}\n"
            f"{{ {run_directory.each_file('current/logs/*.log ./*.log submit/sbatch.err')}; }} |\n"
            f"  xargs -0 -r tail -v -c {tail_bytes} 2>/dev/null | mask\nexit 0\n"
        )
        found = split_tails(self.ask({"logs": script})["logs"].text)
        return {path.rpartition("/")[2]: hide(text, self.hidden) for path, text in found.items()}

    def manifest_of(self, token: Token) -> str:
        """manifest.json, live or archived."""
        return self.ask({"manifest": f"{self.enter(token)}\n[ ! -f manifest.json ] || cat manifest.json"})[
            "manifest"
        ].text

    def history(self, token: Token) -> History:
        """What a token has been through, live or archived."""
        return self.history_and_gpus(token, "")[0]

    def history_and_gpus(self, token: Token, job_id: str) -> tuple[History, Mapping[str, int]]:
        """The same, and the GPUs that the scheduler says a running job holds, by type; no id: none."""
        parts = {"history": f"{self.enter(token)}\n{HISTORY_SCRIPT}"}
        if job_id:
            parts["granted"] = self.scheduler.granted_script(job_id)
        answers = self.ask(parts)
        granted = self.scheduler.parse_granted(answers["granted"].text) if job_id else {}
        return parse_history(answers["history"].text), granted


def unknown_outcome(token: Token, cluster: Cluster, why: str) -> OutcomeUnknown:
    """A job may be alive, and this is how to settle it."""
    return OutcomeUnknown(
        f"the outcome is unknown: {why}; a job named {token} may be queued or running on {cluster.name}",
        hint=f"nemodeploy status {token.name} --cluster {cluster.called}   settles it; nothing will be submitted twice",
        token=str(token),
    )
