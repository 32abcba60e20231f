"""Importing a container image once, to storage that all nodes share."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from nemodeploy.adapters import resources
from nemodeploy.adapters.clock import Clock
from nemodeploy.app.site import Site
from nemodeploy.app.wanted import secrets
from nemodeploy.assembly import site_text
from nemodeploy.core import images
from nemodeploy.core.defaults import DEFAULTS
from nemodeploy.core.diagnosis import Log, diagnose
from nemodeploy.core.foreign import wash_line
from nemodeploy.core.images import Imported
from nemodeploy.core.masking import hide
from nemodeploy.core.reading import near
from nemodeploy.core.sections import Section
from nemodeploy.core.spec import Cluster
from nemodeploy.errors import BadInput, CancelledByUser, ClusterUnreachable, OutcomeUnknown, PreflightFailed
from nemodeploy.runtimes import RUNTIMES
from nemodeploy.runtimes.base import Runtime

PAUSES_S = (1.0, 2.0, 4.0)
EVERY_S = 5.0
SILENT_MOST = 3  # looks in which nobody is at it, before it counts as ended: files may show late
START_WITHIN_S = 90.0
GONE_WITHIN_S = 60.0
_ELSEWHERE = "import it where the registry can be reached: with --partition NAME, or without"
Say = Callable[[float, str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What is to be imported: by which runtime, to which file below `<root>/images`, and where the work is done
    (`partition` empty: on the login host; else as a job there, on an `account` if the site wants one)."""

    image: str
    runtime: Runtime
    file: str
    partition: str
    account: str
    before: str = ""
    credentials: str = field(default="", repr=False)

    @property
    def job(self) -> str:
        """What the import is called where jobs have names."""
        return f"nemodeploy-image-{self.file}"


def order(image: str, runtime: Runtime, *, partition: str, account: str) -> Order:
    """Another runtime's way of naming an image is read as it means. Raises BadInput where nothing can be imported."""
    if runtime.misread(image):
        image = runtime.corrected(image)
    file = runtime.imported(image)
    if not file and runtime.suffix:
        raise BadInput(f"{image} is a file already", hint=f"an image of a registry; {runtime.example}")
    if not file:
        raise BadInput(
            f"runtime {runtime.name} keeps its images on each node; there is nothing to import once",
            hint="runtime: pyxis or apptainer in the cluster file",
        )
    return Order(image=image, runtime=runtime, file=file, partition=partition, account=account)


def at(cluster: Cluster, wanted: Order, environment: Mapping[str, str]) -> Order:
    """The order with what a site wants first, and with what the image's registry wants, where the cluster file names
    that. Raises BadInput when the secret is not set."""
    host = images.registry_of(wanted.image)
    wanted = replace(wanted, before=site_text(cluster, resources.templates()))
    for registry in cluster.registries:
        if registry.host == host:
            password = secrets((registry.secret,), environment)[registry.secret]
            return replace(wanted, credentials=images.credentials_text(registry, password))
    return wanted


def runtime_of(cluster: str) -> str:
    """The runtime that a cluster file names, or the built-in default. Raises BadInput for one that does not exist."""
    document = resources.find("clusters", cluster)
    name = document.data.get("runtime", DEFAULTS.data["runtime"])
    if not isinstance(name, str) or name not in RUNTIMES:
        where = document.origin(("runtime",)).exact
        raise BadInput(f"{where}: unknown runtime {name!r}", hint=near(str(name), RUNTIMES))
    return name


def account_of(cluster: str) -> str:
    """The account that a cluster file names for its jobs; empty: none."""
    document = resources.find("clusters", cluster)
    slurm = document.data.get("slurm")
    account = slurm.get("account", "") if isinstance(slurm, Mapping) else ""
    if not isinstance(account, str) or not re.fullmatch(r"[\w.@+-]*", account):
        raise BadInput(f"{document.origin(('slurm',)).exact}: slurm.account is {account!r}", hint="a name, in quotes")
    return account


def look(site: Site, wanted: Order) -> Imported | None:
    """What is there of it. Raises ClusterUnreachable or AuthenticationFailed."""
    answer = site.ask({"image": images.look_script(site.root, wanted.file)})["image"]
    return images.parse(answer, wanted.image)


def pull(site: Site, clock: Clock, wanted: Order, say: Say) -> Imported:
    """Import it, or watch the import that is under way; `say` is told how it is doing, with the seconds since it began.

    An interrupt ends it. Raises PreflightFailed with the runtime's own words when it fails, ClusterUnreachable when
    nobody can be asked (the import goes on), CancelledByUser and OutcomeUnknown after an interrupt.
    """
    try:
        _start(site, wanted)
        return _watch(site, clock, wanted, say)
    except KeyboardInterrupt:
        _end(site, clock, wanted)
        with contextlib.suppress(ClusterUnreachable):
            if look(site, wanted):
                raise CancelledByUser("interrupted; the import was over already, and the image stays") from None
        raise CancelledByUser("interrupted; the import is ended, and what it had made is taken away") from None


def _start(site: Site, wanted: Order) -> None:
    runtime = wanted.runtime
    words = runtime.import_words(wanted.image)
    text = images.import_script(wanted.image, wanted.file, words, runtime.is_image, runtime.login_words, wanted.before)
    start = (
        site.scheduler.errand_script(wanted.job, wanted.partition, wanted.account)
        if wanted.partition
        else images.ON_LOGIN_HOST
    )
    if not start:
        raise BadInput("there are no partitions without a scheduler", hint="leave --partition out")
    script = images.start_script(site.root, wanted.file, text, start, wanted.credentials)
    answer = site.ask({"start": script}, within_s=START_WITHIN_S)["start"]
    if answer.status:
        site.ask({"clean": images.end_script(site.root, wanted.file)})
        said = images.last_words(answer.text) or "no reason was given"
        raise PreflightFailed(
            f"the import could not be started: {said}",
            hint=site.scheduler.advice_on(answer.text) or "check root: and --partition",
        )


def _watch(site: Site, clock: Clock, wanted: Order, say: Say) -> Imported:
    begun, pauses, silent = clock.now(), iter(PAUSES_S), 0
    while True:
        clock.sleep(next(pauses, EVERY_S))
        parts = images.watch_parts(site.root, wanted.file)
        told = site.ask({**parts, "job": site.scheduler.errand_state_script(wanted.job)})
        answers = {**told, "log": replace(told["log"], text=hide(told["log"].text, site.hidden))}
        status, elapsed = answers["status"].text.strip(), clock.now() - begun
        found = images.parse(answers["image"], wanted.image)
        if found and (status == "0" or not answers["there"].text):  # somebody else who watched may have tidied up
            site.ask({"clean": images.end_script(site.root, wanted.file)})
            return found
        if status or silent > SILENT_MOST:
            raise _failure(site, wanted, answers)
        state = answers["job"].text.strip()
        silent = 0 if state or answers["alive"].text.strip() else silent + 1
        say(elapsed, _progress(state, answers))


def _progress(state: str, answers: Mapping[str, Section]) -> str:
    made = answers["made"].text.strip()
    size = f"{int(made) / 1e6:.1f} GB so far" if made.isdigit() and int(made) > 100_000 else ""
    waiting = state.lower() if state and state != "RUNNING" else ""
    return " · ".join(filter(None, (waiting, size, images.last_words(answers["log"].text)))) or "begun"


def _failure(site: Site, wanted: Order, answers: Mapping[str, Section]) -> PreflightFailed:
    log = [line for line in map(wash_line, answers["log"].text.splitlines()) if line]
    said = images.last_words(answers["log"].text) or "it is gone without a word: somebody ended it, or its host did"
    cause = diagnose([Log("import", answers["log"].text)], None, wanted.runtime.causes)
    site.ask({"clean": images.end_script(site.root, wanted.file)})
    advice = cause.advice or ("the lines above are the runtime's own" if log else "the same command begins anew")
    return PreflightFailed(
        f"{wanted.image} could not be imported: {cause.meaning if cause.key else said}",
        detail=tuple(log[-5:]),
        hint=_ELSEWHERE if cause.key == "no-internet" else advice,
    )


def _end(site: Site, clock: Clock, wanted: Order) -> None:
    """End it and see that it is gone. Raises OutcomeUnknown when nobody can tell."""
    deadline = clock.now() + GONE_WITHIN_S
    while clock.now() < deadline:
        try:
            cancel = site.scheduler.cancel_script(wanted.job, site.root, gently=False) if wanted.partition else ":"
            site.ask({"cancel": cancel})
            state = site.ask({"job": site.scheduler.errand_state_script(wanted.job)})["job"].text.strip()
            if not wanted.partition or not state:
                site.ask({"end": images.end_script(site.root, wanted.file)})
                return
        except ClusterUnreachable:
            pass
        clock.sleep(2.0)
    raise OutcomeUnknown(
        f"the import {wanted.job} may go on", hint="run the same command again: it watches what is under way"
    )
