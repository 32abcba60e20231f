"""A short job that looks at the nodes: submitted, watched, and verified gone whatever happens."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping

from nemodeploy.app.ports import Ports
from nemodeploy.app.site import Site
from nemodeploy.app.wanted import Wanted
from nemodeploy.core import login_host, probe, sections
from nemodeploy.core.checks import Check, failed, not_applicable, ok, unanswered
from nemodeploy.core.plan import Plan
from nemodeploy.core.sections import Section
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
    directory = site.directory(token)
    clean = f"r={directory}; new=$(cat {directory}/new 2>/dev/null); rm -rf {directory}; {login_host.TAKE_AWAY}"
    site.ask({"clean": f"{clean}; rmdir {site.root}/deployments/{NAME} 2>/dev/null; exit 0"})


def _seen(site: Site, ports: Ports, wanted: Wanted, token: Token, within_s: float) -> Iterator[Check]:
    directory = site.directory(token)
    refused = _submit(site, wanted, token, within_s)
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


def _submit(site: Site, wanted: Wanted, token: Token, within_s: float) -> Check | None:
    """None: it was taken. Slurm itself drops it when it has not begun in time, should nobody be there to do so."""
    directory = site.directory(token)
    files = wanted.probe(round(within_s) + RUNS_S)
    uploads = "".join(sections.here_document(name, text) for name, text in files.items())
    script = (
        f"{login_host.note_new(directory)}\n"
        f'mkdir -p {directory} && chmod 700 {directory} && cd {directory} && printf %s "$new" >new || exit 1\n'
        f'{uploads}timeout 180 sh submit.sh "$PWD" {shlex.quote(str(token))} 2>&1'
    )
    answer = site.ask({"submit": script}, within_s=SUBMIT_WITHIN_S)["submit"]
    if answer.status == 0:
        return None
    said = answer.text.strip().splitlines()
    advice = site.scheduler.advice_on(answer.text) or "sbatch's own words say why"
    return failed("job", f"it was not taken: {said[-1] if said else 'no reason was given'}", advice)


def _judged(plan: Plan, answers: Mapping[str, Section]) -> Iterator[Check]:
    status, _, said = answers["container"].text.partition("\n")
    container = (int(status), said) if status.strip().isdigit() else None
    yield from probe.judge(plan, probe.parse(answers["nodes"].text), int(answers["done"].text), container)


def _taken_back(site: Site, ports: Ports, token: Token) -> str:
    """End it, and see that it is gone; what keeps us from knowing, else nothing."""
    deadline = ports.clock.now() + GONE_WITHIN_S
    why = "Slurm still lists it"
    while ports.clock.now() < deadline:
        try:
            site.ask({"cancel": site.scheduler.cancel_script(str(token), site.root, gently=False)})
            queue = site.ask({"queue": site.scheduler.queue_script(site.root)})["queue"]
            rows = site.scheduler.parse_queue(queue.text)
            if queue.status == 0 and not any(one.name == str(token) and one.life is not Life.ENDED for one in rows):
                return ""
        except ClusterUnreachable as error:
            why = error.message
        ports.clock.sleep(2.0)
    return why
