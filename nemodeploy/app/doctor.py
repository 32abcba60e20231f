"""Whether a site would run a deployment: every question that can be asked before anything is submitted."""

from __future__ import annotations

import contextlib
import shlex
import socket
from collections.abc import Callable, Iterator, Mapping

from nemodeploy.adapters.clock import Clock
from nemodeploy.adapters.transports import choose
from nemodeploy.app.site import PREFLIGHT_WITHIN_S, Site
from nemodeploy.app.wanted import Wanted, secret
from nemodeploy.core import checkpoint_files, images, login_host, sections
from nemodeploy.core.checks import Check, Verdict, failed, not_applicable, ok, unanswered, warning
from nemodeploy.core.plan import Plan
from nemodeploy.core.sections import Section
from nemodeploy.errors import (
    AuthenticationFailed,
    BadInput,
    ClusterUnreachable,
    ForwardingRefused,
    PreflightFailed,
)
from nemodeploy.runtimes import RUNTIMES
from nemodeploy.values import Command

GREETING_WITHIN_S = 10.0
SLOW_S = 2.0


def doctor(
    site: Site, clock: Clock, wall: Callable[[], float], environment: Mapping[str, str], wanted: Wanted | None
) -> Iterator[Check]:
    """Every check, as soon as it is made. With a deployment that is wanted, also those that concern it alone.

    `wall`: this machine's time, seconds since the Epoch; `environment`: where secrets are taken from. A site that
    cannot be reached has no further checks.
    """
    if wanted:
        yield from _secrets(wanted.plan, environment)
    try:
        how = choose(site.cluster)
        begun = clock.now()
        site.transport.open()
        opened = clock.now()
        yield _noise(site)
        answered = clock.now()
    except (AuthenticationFailed, ClusterUnreachable, PreflightFailed, BadInput) as error:
        yield failed("ssh", error.message, error.hint)
        return
    times = f"connected in {opened - begun:.2f} s, an answer takes {(answered - opened) * 1000:.0f} ms"
    says = f"by {how[0]} ({how[1]}); {times}"
    if answered - opened > SLOW_S:
        yield warning("ssh", says, "look at what its login shell runs first (~/.bashrc): every command waits for it")
    else:
        yield ok("ssh", says)
    try:
        yield from _asked(site, wanted, wall)
        yield _forwarding(site)
    except (AuthenticationFailed, ClusterUnreachable) as error:
        yield unanswered("site", error.message, error.hint or "run it again")


def _secrets(plan: Plan, environment: Mapping[str, str]) -> Iterator[Check]:
    for name in plan.secrets:
        try:
            value = secret(name, environment)
        except BadInput as error:
            yield failed("secrets", error.message, error.hint)
            continue
        if value is None:
            yield failed("secrets", f"{name} is not set here", f"export {name}=…, or take it out of secrets:")
        elif value.reveal() != value.reveal().strip():
            yield warning("secrets", f"{name} begins or ends with white space", f"export {name}=…   without it")
        else:
            yield ok("secrets", f"{name} is set")


def _noise(site: Site) -> Check:
    nonce = site.nonce()
    script = sections.script(nonce, {"noise": ":"})
    return login_host.noise(site.transport.run(Command(script=script, deadline_s=PREFLIGHT_WITHIN_S)).stdout, nonce)


def _asked(site: Site, wanted: Wanted | None, wall: Callable[[], float]) -> Iterator[Check]:
    parts = {**login_host.parts(site.root), **site.scheduler.survey_parts()}
    look = wanted is not None and not site.cluster.stand_in
    if wanted and look:
        parts |= _own_parts(wanted.plan, site.root)
    begun = wall()
    answers = site.ask(parts, within_s=PREFLIGHT_WITHIN_S)
    yield from login_host.judge(
        answers,
        now_s=(begun + wall()) / 2,
        root=site.cluster.root,
        one_machine=site.cluster.scheduler == "none",
    )
    plan = wanted.plan if wanted else None
    found = list(site.scheduler.judge_survey(answers, plan, site.cluster.partition))
    yield from found
    if wanted and not any(one.verdict is Verdict.FAILED for one in found):
        yield from _preflight(site, wanted)
    if wanted and look:
        yield from _own(wanted, answers)
    elif wanted:
        for name in ("runtime", "image", "checkpoint"):
            yield not_applicable(name, "stand-ins take their place here")


def _preflight(site: Site, wanted: Wanted) -> Iterator[Check]:
    """The very script, tried and not submitted."""
    plan = wanted.plan
    answers = site.ask(site.scheduler.preflight_parts(plan, wanted.bundle.files), within_s=PREFLIGHT_WITHIN_S)
    found = site.scheduler.judge_preflight(plan, answers)
    for what, remedy in found.problems:
        yield failed("submission", what, remedy)
    if not found.problems:
        yield ok("submission", found.says)


def _own_parts(plan: Plan, root: str) -> Mapping[str, str]:
    present = RUNTIMES[plan.runtime].present
    image = login_host.quoted(plan.image)
    program = shlex.quote(plan.program[0] if plan.program else ":")
    return {
        "own.runtime": present or ":",
        "own.image": f"if [ -s {image} ]; then echo there; elif [ -e {image} ]; then echo empty; fi",
        "own.imported": images.look_script(root, plan.imported) if plan.imported else ":",
        "own.program": f'p=$(command -v {program}) && [ -x "$p" ] && [ ! -d "$p" ]',
        "own.checkpoint": checkpoint_files.script(plan.checkpoint),
    }


def _own(wanted: Wanted, answers: Mapping[str, Section]) -> Iterator[Check]:
    plan = wanted.plan
    present = RUNTIMES[plan.runtime].present
    if not present:
        there = answers["own.program"].status == 0
        word = plan.program[0]
        yield (
            ok("program", f"{word} is there")
            if there
            else warning("program", f"{word} is not on the login host", "programs: as the nodes see them")
        )
    elif answers["own.runtime"].status == 0:
        yield ok("runtime", plan.runtime)
    elif plan.modules or plan.prolog:
        what = f"{plan.runtime} is not on the login host as it is; on a node a module may bring it"
        yield warning("runtime", what, "nemodeploy doctor --job tries it there")
    else:
        yield failed(
            "runtime",
            f"{plan.runtime} is not installed on the login host, or does not run there",
            "another runtime:, or ask the site",
        )
    if present:
        yield _image(wanted, answers["own.image"].text.strip(), answers["own.imported"])
    yield from checkpoint(
        plan.checkpoint,
        plan.checkpoint_kind,
        answers["own.checkpoint"],
        size_gb=plan.checkpoint_gb,
        source=wanted.source,
    )


def _image(wanted: Wanted, said: str, imported: Section) -> Check:
    plan = wanted.plan
    if not plan.image.startswith("/"):
        found = images.parse(imported, plan.image)
        if found:
            return ok("image", f"{plan.image} is imported; every start is spared {found.saves}")
        who = images.how_nodes_ask(plan.image, wanted.cluster.registries)
        what = f"{plan.image} is fetched by every node at every start{who}"
        return warning("image", what, images.pull_command(plan, wanted.cluster) if plan.imported else "")
    if said == "there":
        return ok("image", f"{plan.image} is there")
    what = "is empty" if said == "empty" else "is not there"
    return failed("image", f"{plan.image} {what}", "import it there, or another path in images:")


def checkpoint(path: str, kind: str, answer: Section, *, size_gb: float, source: str) -> Iterator[Check]:
    """Whether a checkpoint is whole; how large it ought to be, in GB of 10^9 bytes, and where it comes from."""
    found = checkpoint_files.parse(answer)
    if found is None:
        yield unanswered("checkpoint", f"{path} could not be looked at")
        return
    flaws = checkpoint_files.flaws(found, kind=kind, path=path, size_gb=size_gb, source=source)
    whole = True
    for flaw in flaws:
        whole = False
        yield failed("checkpoint", flaw.what, "\n".join(flaw.commands) or "checkpoints: in the cluster file")
    if whole:
        yield ok("checkpoint", f"{path} is whole: {len(found.sizes)} files, {found.bytes / 1e9:.1f} GB")


def _forwarding(site: Site) -> Check:
    """Whether a connection through the login host comes out: its own SSH server greets first."""
    port = site.ask({"port": "echo ${SSH_CONNECTION:-}"})["port"].text.split()
    if len(port) < 4 or not port[3].isdigit():
        return not_applicable("forwarding", "there is no SSH in between")
    try:
        stream = site.transport.tunnel(port[2], int(port[3]))
    except ForwardingRefused as error:
        return failed(
            "forwarding", error.message, "ask the site to allow TCP forwarding, or for bash on the login host"
        )
    except ClusterUnreachable:
        return unanswered("forwarding", "nothing listens there that could be tried; a deployment will show it")
    with contextlib.closing(stream):
        stream.settimeout(GREETING_WITHIN_S)
        with contextlib.suppress(OSError, EOFError, socket.timeout):
            if stream.recv(4) == b"SSH-":
                return ok("forwarding", "connections through the login host come out")
    return warning(
        "forwarding", "a connection through the login host said nothing", "ask the site about TCP forwarding"
    )
