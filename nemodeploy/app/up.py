"""From nothing to a server that has answered a prompt, or a clear word of why not, with nothing left behind."""

from __future__ import annotations

import contextlib
import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass

from nemodeploy.app import ending, leftovers
from nemodeploy.app.holding import Held
from nemodeploy.app.newer import illegible
from nemodeploy.app.ports import Ports
from nemodeploy.app.site import Site, unknown_outcome
from nemodeploy.app.submitting import Submitted, Taken, finish, take_and_submit
from nemodeploy.app.watching import Up, Watch
from nemodeploy.assembly import difference
from nemodeploy.core import readiness
from nemodeploy.core.patience import Budget
from nemodeploy.core.plan import Bundle, Plan, manifest
from nemodeploy.core.readiness import State
from nemodeploy.errors import (
    AuthenticationFailed,
    CancelledByUser,
    ClusterUnreachable,
    InterruptedBeforeSubmission,
    OutcomeUnknown,
    PreflightFailed,
)
from nemodeploy.values import Secret, Token


@dataclass(frozen=True, slots=True)
class Lease:
    """After how many seconds without a renewal the job ends itself (None: never), and whether somebody asked for it."""

    ttl_s: int | None
    asked: bool


NO_LEASE = Lease(None, asked=False)


class IfTaken(enum.Enum):
    """What becomes of a deployment that has the name already: the same is adopted, another is refused; or it is taken
    down first; or both are refused."""

    ADOPT = "adopt"
    REPLACE = "replace"
    REFUSE = "refuse"


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What is to be up: everything decided, the secrets that go with it, how long to wait, and its lease."""

    plan: Plan
    bundle: Bundle
    secrets: Mapping[str, Secret]
    budget: Budget
    lease: Lease = NO_LEASE


def up(
    site: Site,
    ports: Ports,
    request: Request,
    *,
    if_taken: IfTaken = IfTaken.ADOPT,
    ours: list[Token] | None = None,
    held: Held | None = None,
) -> Up:
    """Submit or adopt, watch, ask. Raises the errors of errors.py; 30 to 40 only after the job is verified gone.

    `ours` holds what this very call has submitted, or is at it, and so may be taken back; `held` what it has held
    so far.
    """
    begun, name, lease = ports.clock.now(), request.plan.name, request.lease
    ours = [] if ours is None else ours
    held = held or Held()
    ports.journal.check()
    try:
        token, made = obtain(site, ports, request, ours, if_taken)
        try:
            ttl_s = lease.ttl_s if made else _adopt_lease(site, token, lease)
            with contextlib.suppress(ClusterUnreachable, AuthenticationFailed):  # the next one can do it as well
                leftovers.settle(site, ports, name)
            return Watch(
                site, ports, token, request.budget, begun, adopted=not ours, ttl_s=ttl_s, held=held
            ).until_ready()
        except (ClusterUnreachable, AuthenticationFailed) as error:  # too late for "nothing was submitted"
            raise unknown_outcome(token, site.cluster, error.message) from error
    except KeyboardInterrupt:
        raise _interrupted(site, ports, name, ours, held) from None


def obtain(site: Site, ports: Ports, request: Request, ours: list[Token], if_taken: IfTaken) -> tuple[Token, bool]:
    """Submit or adopt: a token of this name that is submitted, and whether this call made it, lease and all.

    `ours` holds what this call submitted, while it is at it and afterwards; empty: somebody else did.
    """
    plan, bundle, after = request.plan, request.bundle, None
    for _ in range(8):
        token = _intend(site, ports, plan, bundle)
        _preflight(site, ports, plan, bundle, token, after)
        ours[:] = [token]
        result = take_and_submit(
            site, ports, token, plan, bundle, secrets=request.secrets, after=after, ttl_s=request.lease.ttl_s
        )
        if isinstance(result, Submitted):
            ports.reporter.say("submitted", f"job {result.job_id} ({result.token})")
            return result.token, True
        ours.clear()
        after = _settle(site, ports, plan, bundle, result, ours, if_taken)
        if after is None:
            return result.token, False
    raise PreflightFailed(f"the name {plan.name} changes hands faster than we can follow", hint="try again")


def _adopt_lease(site: Site, token: Token, lease: Lease) -> int | None:
    """What was asked for holds for the one that is there, too; unasked, its lease is renewed as it is."""
    if lease.asked and lease.ttl_s is None:
        site.drop_lease(token)
        return None
    return site.renew(token, lease.ttl_s if lease.asked else None)


def _intend(site: Site, ports: Ports, plan: Plan, bundle: Bundle) -> Token:
    """A fresh token, written down before any network; then the connection. When that fails, nothing was sent."""
    token = ports.new_token(plan.name)
    ports.journal.note(token, cluster=site.cluster.name, digest=bundle.digest, step="intent", at=ports.wall_clock())
    try:
        site.transport.open()
    except BaseException:
        ports.journal.forget(token)
        raise
    return token


def _preflight(site: Site, ports: Ports, plan: Plan, bundle: Bundle, token: Token, after: Token | None) -> None:
    """Ask the site whether it can run this, in one remote call, unless the name is taken anyway.

    Raises PreflightFailed with everything that stands against it; nothing was submitted.
    """
    try:
        found = site.preflight(plan, bundle.files, unless_taken=after is None)
    except BaseException:
        ports.journal.forget(token)
        raise
    if found is None:
        return
    if found.problems:
        ports.journal.forget(token)
        raise PreflightFailed(
            f"{site.cluster.name} cannot run {plan.name}: {found.problems[0][0]}",
            detail=tuple(what for what, _ in found.problems[1:]),
            hint=next((instead for _, instead in found.problems if instead), ""),
        )
    ports.reporter.say("checks", found.says)


def _settle(
    site: Site, ports: Ports, plan: Plan, bundle: Bundle, taken: Taken, ours: list[Token], if_taken: IfTaken
) -> Token | None:
    """The name is taken: None to adopt its token, or the token once it is proven gone."""
    look = site.look(name=plan.name)
    directory = look.directory(taken.token)
    verdict = readiness.judge(site.see(look, directory))
    if verdict.gone:
        return taken.token
    if verdict.state is State.STOPPING:
        ending.end(site, ports, taken.token, why="waiting for the old one")
        return taken.token
    if directory.illegible and if_taken is not IfTaken.REPLACE:
        raise illegible(directory, site.cluster)
    if if_taken is IfTaken.REFUSE:
        raise PreflightFailed(
            f"{plan.name} is already {verdict.state.value} on {site.cluster.name}, and is not ours to use",
            hint="--reuse uses it and leaves it up; without --name it gets one of its own",
            token=str(taken.token),
        )
    if str(directory.manifest.get("digest")) == bundle.digest and not directory.illegible:
        ports.reporter.say(
            "adopted", f"{plan.name} is already {verdict.state.value} as {taken.token}; nothing submitted"
        )
        if verdict.state is State.SUBMITTING:  # its client may be gone; whoever makes submit/go submits
            try:
                by_us = finish(site, ports, taken.token)
            except KeyboardInterrupt:
                why = "interrupted while finishing what another command had begun"
                raise unknown_outcome(taken.token, site.cluster, why) from None
            if by_us is None:
                return taken.token
            ours[:] = [taken.token] if by_us else []
        return None
    if if_taken is IfTaken.REPLACE:
        ending.end(site, ports, taken.token, why="replacing the old one", reason="replaced by nemodeploy up")
        return taken.token
    lines = difference(json.loads(manifest(plan, bundle))["plan"], directory.plan)
    down = site.cluster.command("down", plan.name)
    raise PreflightFailed(
        f"{plan.name} is already {verdict.state.value} on {site.cluster.name}, and it is a different one",
        detail=lines[:10] or ("the same settings, but other scripts: made by another version of nemodeploy",),
        hint=f"--replace takes it down first; --name NAME starts another; {down}",
        token=str(taken.token),
    )


def _interrupted(site: Site, ports: Ports, name: str, ours: list[Token], held: Held) -> Exception:
    """A person pressed Ctrl-C, or a CI system sent TERM. Only what this call submitted is taken back."""
    status = site.cluster.command("status", name)
    if not ours:
        return InterruptedBeforeSubmission("interrupted; nothing was submitted", hint=status)
    token, wanted = ours[0], True
    with contextlib.suppress(KeyboardInterrupt):  # again, which is an answer, too
        wanted = ports.reporter.wants_cancel(str(token))
    if not wanted:
        return OutcomeUnknown(
            f"left alone; the job of {token} goes on by itself",
            hint=f"{status}, or {site.cluster.command('down', name)}",
            token=str(token),
        )
    ended = ending.end_for_user(
        site, ports, token, why="cancelling", reason="the command that started it was interrupted"
    )
    held.note(ended.job_id, None)
    if not ended.submitted:
        return InterruptedBeforeSubmission("interrupted; nothing was submitted", token=str(token))
    return CancelledByUser(f"cancelled; job {ended.job_id} is verified gone", token=str(token))
