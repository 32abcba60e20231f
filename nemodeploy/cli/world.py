"""The ports of one command, and the clusters it talks to."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from nemodeploy.cli.words import tell
from nemodeploy.core.listing import counted
from nemodeploy.errors import BadInput, ClusterUnreachable, NemodeployError, PersonWanted, PreflightFailed

if TYPE_CHECKING:
    from nemodeploy.app.ports import Ports, Reporter
    from nemodeploy.app.site import Site
    from nemodeploy.app.status import Deployment
    from nemodeploy.core.observation import RunDirectory
    from nemodeploy.core.spec import Cluster
    from nemodeploy.values import Endpoint


def ports(reporter: Reporter) -> Ports:
    """The real ones, for the owner that the environment names."""
    from nemodeploy.app import opening

    return opening.ports(reporter, os.environ)


def site(cluster: Cluster) -> contextlib.AbstractContextManager[Site]:
    """A cluster, and its connection closed afterwards."""
    from nemodeploy.app import opening

    return opening.site(cluster)


def clusters(chosen: str | None) -> tuple[list[Cluster], list[tuple[str, NemodeployError]]]:
    """The clusters a question goes to, and those whose file is broken; the one that was asked for must not be."""
    from nemodeploy.app.wanted import cluster, cluster_names

    found: list[Cluster] = []
    broken: list[tuple[str, NemodeployError]] = []
    for name in cluster_names(chosen):
        try:
            found.append(cluster(name))
        except BadInput as error:
            if chosen:
                raise
            broken.append((name, error))
    return found, broken


def only_cluster(chosen: str | None) -> str:
    """The cluster that is meant; the only one when nobody says. Raises BadInput where there are several."""
    from nemodeploy.app.wanted import cluster_names

    names = cluster_names(chosen)
    if len(names) > 1:
        raise BadInput(f"which cluster? there is {', '.join(names)}", hint=f"--cluster {names[0]}")
    return names[0]


def sites(stack: contextlib.ExitStack, chosen: str | None) -> tuple[list[Site], list[tuple[str, NemodeployError]]]:
    """Every cluster that is asked, with a connection that ends with the stack; and those whose file is broken."""
    asked, broken = clusters(chosen)
    return [stack.enter_context(site(one)) for one in asked], broken


def where(sites: Sequence[Site]) -> str:
    """What a command needs to look in the same place, with a blank before it; empty: nothing."""
    return sites[0].cluster.option if len(sites) == 1 else ""


Answers = list[tuple["Site", "Deployment"]]
T = TypeVar("T")


def ask_all(
    sites: Sequence[Site],
    question: Callable[[Site], Sequence[Deployment]],
    broken: Sequence[tuple[str, NemodeployError]] = (),
) -> tuple[Answers, list[tuple[str, NemodeployError]]]:
    """Ask every cluster at the same time, so that one which does not answer holds nobody up."""
    found: Answers = []
    failures = list(broken)
    for here, answer in zip(sites, at_once(sites, question), strict=True):
        if isinstance(answer, NemodeployError):
            failures.append((here.cluster.name, answer))
        else:
            found += [(here, deployment) for deployment in answer]
    return found, failures


def at_once(sites: Sequence[Site], deed: Callable[[Site], T]) -> list[T | NemodeployError]:
    """Do the same at every cluster at the same time: what came of it, or its error, in their order. A single one is not
    given a thread, so that an interrupt reaches it."""
    answers: list[T | Exception] = [ClusterUnreachable("it was not asked") for _ in sites]

    def ask(number: int, here: Site) -> None:
        try:
            answers[number] = deed(here)
        except Exception as error:  # a thread has nobody above it
            answers[number] = error

    threads = [threading.Thread(target=ask, args=pair, daemon=True) for pair in enumerate(sites)]
    if len(threads) == 1:
        ask(0, sites[0])
    else:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for number, here in enumerate(sites if len(threads) > 1 else ()):  # a person is asked by this thread, one by one
        if isinstance(answers[number], PersonWanted):
            ask(number, here)
    wrong = next((one for one in answers if isinstance(one, Exception) and not isinstance(one, NemodeployError)), None)
    if wrong is not None:
        raise wrong
    return [one for one in answers if isinstance(one, NemodeployError) or not isinstance(one, Exception)]


def last_ended(sites: Sequence[Site], name: str) -> Answers:
    """The last one of a name that has ended, however long ago; none when there never was one.

    Raises what kept a cluster from answering where no other one has it: it may be there.
    """
    from nemodeploy.app.status import last_ended

    found, failures = ask_all(sites, lambda here: last_ended(here, name))
    if failures and not found:
        raise unreachable(failures)
    return sorted(found, key=lambda pair: pair[1].token.text[-26:])[-1:]


def the_one(
    stack: contextlib.ExitStack, chosen: str | None, name: str, *, ended_too: bool = False
) -> tuple[Site, Deployment]:
    """The deployment of a name, wherever it is, or the last one that has ended.

    Raises BadInput for none or several, or what kept us from looking.
    """
    from nemodeploy.app.status import only, status

    asked, broken = sites(stack, chosen)
    found, failures = ask_all(asked, lambda here: status(here, name), broken)
    if not found and failures:
        raise failures[0][1]
    if not found and ended_too:
        found = last_ended(asked, name)
    deployment = only([one for _, one in found], name, where(asked))
    return next(pair for pair in found if pair[1] is deployment)


def serving(stack: contextlib.ExitStack, chosen: str | None, name: str) -> tuple[Site, RunDirectory, Endpoint]:
    """The one of a name, and where it serves; one that is DEGRADED may answer all the same.

    Raises PreflightFailed when it does not serve, and what `the_one` raises.
    """
    from nemodeploy.core.readiness import State

    found, deployment = the_one(stack, chosen, name, ended_too=True)
    require_legible(found, deployment)
    verdict, endpoint = deployment.verdict, deployment.endpoint
    if verdict.state not in (State.READY, State.DEGRADED) or endpoint is None:
        state = f"{verdict.state.value} {verdict.reason}".strip()
        raise PreflightFailed(f"{name} is not READY: {state}", hint=found.cluster.command("status", name))
    if verdict.state is State.DEGRADED:
        tell(f"note: {name} is DEGRADED: {verdict.reason}; asking it all the same")
    return found, deployment.seen.directory, endpoint


def require_legible(found: Site, deployment: Deployment) -> None:
    """Raises PreflightFailed for one that is up, or may be, and that a newer version wrote."""
    from nemodeploy.app.newer import illegible

    if deployment.seen.directory.illegible and not deployment.verdict.gone:
        raise illegible(deployment.seen.directory, found.cluster)


def unreachable(failures: list[tuple[str, NemodeployError]]) -> NemodeployError:
    """One error for several clusters that did not answer; a single one's own."""
    if len(failures) == 1:
        return failures[0][1]
    names = counted([name for name, _ in failures])
    return ClusterUnreachable(f"none of the clusters answered: {names}", detail=tuple(e.message for _, e in failures))


def interrupt_on_termination() -> None:
    """TERM and HUP do what Ctrl-C does."""

    def raise_interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    _handle((signal.SIGTERM, signal.SIGHUP), raise_interrupt)


def interrupt_once() -> None:
    """INT, TERM and HUP interrupt, and the first of them is the last that is heard: what is to be undone is undone."""

    def raise_interrupt(*_: Any) -> None:
        ignore_interrupts()
        raise KeyboardInterrupt

    _handle((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), raise_interrupt)


def _handle(numbers: Sequence[signal.Signals], handler: Callable[..., None]) -> None:
    """One that whoever started us keeps away from us, as nohup does, stays away."""
    for number in numbers:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def ignore_interrupts() -> None:
    """The outcome stands; a late Ctrl-C must not deny it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def require_name(name: str) -> str:
    """A name that a deployment can have. Raises BadInput."""
    from nemodeploy.values import NAME

    if not NAME.fullmatch(name):
        raise BadInput(f"{name!r} is not a deployment name", hint="nemodeploy status")
    return name
