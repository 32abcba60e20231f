"""A short job that looks at the nodes: submitted, watched, and verified gone whatever happens."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from nemodeploy.app.ports import Ports
from nemodeploy.app.site import Site
from nemodeploy.app.wanted import Wanted
from nemodeploy.core import login_host, probe, sections, submission
from nemodeploy.core.checks import Check, failed, not_applicable, ok, unanswered
from nemodeploy.core.plan import Plan
from nemodeploy.core.sections import Section
from nemodeploy.core.submission import Receipt
from nemodeploy.errors import CancelledByUser, ClusterUnreachable, OutcomeUnknown
from nemodeploy.schedulers.base import Life
from nemodeploy.values import Token

NAME = "doctor"  # of its token, so that status and reap know what is left of it
PAUSES_S = (1.0, 2.0, 4.0, 8.0)  # then every 15 s
EVERY_S = 15.0
GONE_WITHIN_S = 90.0
SUBMIT_WITHIN_S = 200.0
RUNS_S = 240  # its time limit, and a minute


def look_at_nodes(site: Site, ports: Ports, wanted: Wanted, within_s: float) -> Iterator[Check]:
    """What the nodes say that it would get; `within_s`: how long it may wait and run. The job is taken back at the end,
    also when whoever listens goes away. Raises ClusterUnreachable."""
    if not wanted.probe(RUNS_S):
        yield not_applicable("job", "there is no scheduler; the host itself was looked at")
        return
    token = ports.new_token(NAME)
    try:
        problem = _laid_out(site, wanted, token, within_s)
    except BaseException:
        with contextlib.suppress(ClusterUnreachable):
            _clean(site, token)  # nothing was submitted yet
        raise
    if problem:
        yield problem
        return
    try:
        yield from _seen(site, ports, wanted, token, within_s)
    except KeyboardInterrupt:
        _end(site, ports, token)
        raise CancelledByUser("interrupted; the job is taken back, and verified gone") from None
    except BaseException:
        _end(site, ports, token)
        raise
    _end(site, ports, token)


def _end(site: Site, ports: Ports, token: Token) -> None:
    """Take the job back and its files away. Raises OutcomeUnknown when nobody can tell that it is gone."""
    left = _taken_back(site, ports, token)
    if left:
        hint = f"{site.cluster.command('down', NAME)}   ends it"
        raise OutcomeUnknown(f"the job {token} may be alive: {left}", hint=hint, token=str(token))
    _clean(site, token)


def _clean(site: Site, token: Token) -> None:
    directory = site.directory(token)
    clean = f"r={directory}; new=$(cat {directory}/new 2>/dev/null); rm -rf {directory}; {login_host.TAKE_AWAY}"
    site.ask({"clean": f"{clean}; rmdir {site.root}/deployments/{NAME} 2>/dev/null; exit 0"})


def _seen(site: Site, ports: Ports, wanted: Wanted, token: Token, within_s: float) -> Iterator[Check]:
    directory = site.directory(token)
    refused = _submit(site, token)
    if refused:
        yield refused
        return
    begun, pauses = ports.clock.now(), iter(PAUSES_S)
    while True:
        ports.clock.sleep(next(pauses, EVERY_S))
        answers = site.ask(
            {
                "queue": site.scheduler.queue_script(site.root),
                "nodes": f"cd {directory} && cat nodes 2>/dev/null; exit 0",
                "container": f"cd {directory} && cat container.rc container 2>/dev/null; exit 0",
                "done": f'cd {directory} && [ -e done ] && set -- seen.* && [ -e "$1" ] && echo $#; exit 0',
            }
        )
        waited = ports.clock.now() - begun
        if answers["done"].text.strip().isdigit():
            yield ok("job", f"it ran and was over after {waited:.0f} s")
            yield from _judged(wanted.plan, answers)
            return
        row = next((one for one in site.scheduler.parse_queue(answers["queue"].text) if one.name == str(token)), None)
        if row and row.life is Life.ENDED:
            yield failed(
                "job", f"it ended without an answer: {row.state}", "ask the site: a job of a minute fails there"
            )
            return
        if waited > within_s:
            why = row.plain_reason if row else "Slurm does not list it"
            yield unanswered("job", f"nothing after {waited:.0f} s: {why}", "--wait 30m waits longer")
            return


def _laid_out(site: Site, wanted: Wanted, token: Token, within_s: float) -> Check | None:
    """Write the job's files; what is wrong with that, else None. Slurm itself drops the job when it has not begun in
    time, should nobody be there to do so."""
    directory = site.directory(token)
    files = wanted.probe(round(within_s) + RUNS_S)
    uploads = "".join(sections.here_document(name, text) for name, text in files.items())
    script = (
        f"{login_host.note_new(directory)}\numask 077; exec 2>&1\n"
        f'mkdir -p {directory}/submit && cd {directory} && printf %s "$new" >new || exit 1\n{uploads}'
        f'for file in {" ".join(files)}; do [ -s "$file" ] || {{ echo "$file was not written"; exit 1; }}; done\n'
    )
    answer = site.ask({"files": script})["files"]
    if answer.status == 0:
        return None
    _clean(site, token)
    said = answer.text.strip().splitlines()
    what = f"its files cannot be written: {said[-1] if said else 'no reason was given'}"
    return failed("job", what, "root: in the cluster file, to a directory that you can write")


def _submit(site: Site, token: Token) -> Check | None:
    """Once, as a deployment is: whoever makes `submit/go`. None: it was taken, or sbatch gave no clear answer."""
    script = f"cd {site.directory(token)} || exit {submission.NOT_OURS}\n{submission.submit_once_script(token)}"
    answer = site.ask({"submit": script}, within_s=SUBMIT_WITHIN_S)["submit"]
    receipt = submission.parse_receipt(answer.status, answer.text)
    if not _is_refused(site, receipt):
        return None
    words = site.scheduler.refusal_words(receipt.error) or tuple(receipt.error.strip().splitlines())
    advice = site.scheduler.advice_on("\n".join(words)) or "sbatch's own words say why"
    return failed("job", f"it was not taken: {'; '.join(words) or 'no reason was given'}", advice)


def _is_refused(site: Site, receipt: Receipt) -> bool:
    """Whether sbatch has ended, and no job came of it; an id is never a refusal."""
    if not receipt.status or site.scheduler.parse_job_id(receipt.out):
        return False
    return receipt.status == 127 or site.scheduler.was_refused(receipt.status, receipt.error)


def _is_settled(site: Site, receipt: Receipt) -> bool:
    return bool(site.scheduler.parse_job_id(receipt.out)) or _is_refused(site, receipt)


def _judged(plan: Plan, answers: Mapping[str, Section]) -> Iterator[Check]:
    status, _, said = answers["container"].text.partition("\n")
    container = (int(status), said) if status.strip().isdigit() else None
    yield from probe.judge(plan, probe.parse(answers["nodes"].text), int(answers["done"].text), container)


def _taken_back(site: Site, ports: Ports, token: Token) -> str:
    """End it, and see that it is gone; what keeps us from knowing, else nothing.

    A queue without it proves nothing while sbatch may still be at work: before its receipt, or when that has no id and
    no refusal. Then only a job that was listed once can be seen to be gone.
    """
    deadline, listed = ports.clock.now() + GONE_WITHIN_S, False
    why = "Slurm still lists it"
    cancel = site.scheduler.cancel_script(str(token), site.root, gently=False)
    written = f"cd {site.directory(token)} || exit 1\n{submission.READ_RECEIPT}"
    while ports.clock.now() < deadline:
        try:
            if site.withhold(token):
                return ""
            receipt = site.ask({"cancel": cancel, "receipt": written})["receipt"]
            queue = site.ask({"queue": site.scheduler.queue_script(site.root)})["queue"]
            rows = [one for one in site.scheduler.parse_queue(queue.text) if one.name == str(token)]
            listed = listed or bool(rows)
            settled = listed or _is_settled(site, submission.parse_receipt(receipt.status, receipt.text))
            if queue.status == 0 and settled and all(one.life is Life.ENDED for one in rows):
                return ""
            why = "Slurm still lists it" if rows else "sbatch has not said what came of it"
        except ClusterUnreachable as error:
            why = error.message
        ports.clock.sleep(2.0)
    return why
