"""Submitting exactly once: run directory, upload, the link `active`, a detached sbatch, its receipt.

One remote call does it all. After any doubt the token is looked up; it is never submitted again without proof that
nothing was accepted, and `submit/go` is that proof: whoever makes it is the only one who may run sbatch.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from nemodeploy.app.ports import Ports
from nemodeploy.app.site import Site, unknown_outcome
from nemodeploy.core.foreign import wash_line
from nemodeploy.core.plan import Bundle, Plan, manifest
from nemodeploy.core.submission import Receipt, lease_files
from nemodeploy.errors import (
    AuthenticationFailed,
    ClusterUnreachable,
    NemodeployError,
    PreflightFailed,
    SubmissionRefused,
)
from nemodeploy.values import Secret, Token

LOOK_UP_AFTER_S = (0.0, 5.0, 10.0, 15.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """The name belongs to another token."""

    token: Token


@dataclass(frozen=True, kw_only=True, slots=True)
class Submitted:
    """Slurm accepted our token."""

    token: Token
    job_id: str


def take_and_submit(
    site: Site,
    ports: Ports,
    token: Token,
    plan: Plan,
    bundle: Bundle,
    *,
    secrets: Mapping[str, Secret],
    after: Token | None = None,
    ttl_s: int | None = None,
) -> Submitted | Taken:
    """Take the deployment's name with a token that the journal knows, and submit.

    `after`: a token of that name which is proven gone. `ttl_s`: the job gets a lease of so many seconds.

    Raises PreflightFailed (no run directory), SubmissionRefused, ClusterUnreachable (nothing submitted) or
    OutcomeUnknown.
    """
    facts = {"token": str(token), "owner": ports.owner, "version": ports.version, "created_at": ports.wall_clock()}
    files = {**bundle.files, "manifest.json": manifest(plan, bundle, **facts)}
    if secrets:
        files["secrets.env"] = "".join(f"{key}={shlex.quote(value.reveal())}\n" for key, value in secrets.items())
    files |= lease_files(ttl_s, ports.nonce())
    try:
        taking = site.take(token, files, after)
    except NemodeployError as error:
        if not isinstance(error, ClusterUnreachable):
            ports.journal.forget(token)
            raise
        return recover(site, ports, token, error)
    if taking.held_by:
        ports.journal.forget(token)
        return Taken(token=taking.held_by)
    if taking.problem:
        ports.journal.forget(token)
        raise PreflightFailed(
            f"cannot make the run directory {site.cluster.root}/deployments/{plan.name} on {site.cluster.name}: "
            f"{taking.problem}",
            hint="set root: in the cluster file to a directory you can write, on a file system that all nodes share",
        )
    return read_receipt(site, ports, token, taking.receipt)


def read_receipt(site: Site, ports: Ports, token: Token, receipt: Receipt) -> Submitted:
    """What sbatch said: accepted, refused, or in doubt and then looked up by name. An id is never a refusal, whatever
    else was said: a site's wrapper may fail after it has submitted. Of several ids none is told before the queue was
    asked: a wrapper may name another job."""
    status, error = receipt.status, receipt.error
    ids = site.scheduler.parse_job_ids(receipt.out)
    if status == 0 and len(ids) == 1:
        job_id = ids[0]
        ports.journal.add(token, step="submitted", job_id=job_id, at=ports.wall_clock())
        return Submitted(token=token, job_id=job_id)
    if ids or (status != 127 and (status is None or not site.scheduler.was_refused(status, error))):
        return _look_up(site, ports, token, error or f"{site.scheduler.submitter} gave no clear answer")
    site.archive({token: ""})
    ports.journal.forget(token)
    if site.scheduler.is_unreachable(error):
        raise ClusterUnreachable(
            f"Slurm's controller on {site.cluster.name} does not answer; nothing was submitted",
            hint="nemodeploy up again when sinfo on the login host works",
        )
    if status == 127:
        raise PreflightFailed(
            f"{site.scheduler.submitter} is not found on the login host of {site.cluster.name}",
            hint="is this the right host, and the right scheduler: in the cluster file?",
        )
    called = site.scheduler.called
    lines = tuple(line for line in map(wash_line, error.splitlines()) if line)
    raise SubmissionRefused(
        f"{called[:1].upper()}{called[1:]} refused the job: {_why(site, error)}",
        detail=lines,
        hint=site.scheduler.advice_on("\n".join(site.scheduler.refusal_words(error)) or error),
        token=str(token),
    )


def _why(site: Site, error: str) -> str:
    """In the words of the scheduler and of the site's plug-ins."""
    return "; ".join(site.scheduler.refusal_words(error)) or wash_line(error.strip()[-200:]) or "no reason given"


def finish(site: Site, ports: Ports, token: Token) -> bool | None:
    """Somebody's token that has the name but no receipt: submit it, unless somebody is at it; then wait for theirs.

    Returns whether it was we who submitted it, as far as we know; None: it has lost the name meanwhile.
    """
    try:
        receipt = site.receipt(token)
    except ClusterUnreachable as error:
        receipt = _receipt_at_last(site, ports, token, error)
    if not receipt.ours:
        return None
    read_receipt(site, ports, token, receipt)
    return receipt.by_us


def recover(site: Site, ports: Ports, token: Token, error: ClusterUnreachable) -> Submitted:
    """The connection broke somewhere in the submission: find out how far it came."""
    receipt = _receipt_at_last(site, ports, token, error, withhold=True)
    if receipt is NEVER:
        ports.journal.forget(token)
        raise error
    return read_receipt(site, ports, token, receipt)


NEVER = Receipt(ours=False)  # the name was not taken, and now nobody can submit


def _receipt_at_last(
    site: Site, ports: Ports, token: Token, error: ClusterUnreachable, *, withhold: bool = False
) -> Receipt:
    """The receipt, after a few breaks; a token without the name is withheld, if asked. Raises OutcomeUnknown."""
    for pause in site.cluster.ssh.recovery_waits_s:
        ports.reporter.say("doubt", f"{error.message}; looking the token up in {pause:.0f} s")
        ports.clock.sleep(pause)
        try:
            receipt = site.receipt(token)
            return NEVER if withhold and not receipt.ours and site.withhold(token) else receipt
        except ClusterUnreachable as again:
            error = again
        except AuthenticationFailed as refused:
            raise unknown_outcome(token, site.cluster, refused.message) from refused
    raise unknown_outcome(token, site.cluster, error.message)


def _look_up(site: Site, ports: Ports, token: Token, why: str) -> Submitted:
    """sbatch gave no clear answer: ask queue and accounting for the token, patiently; never submit again here."""
    for pause in LOOK_UP_AFTER_S:
        ports.clock.sleep(pause)
        try:
            rows = site.look(name=token.name).rows.get(str(token), ())
            trace = None if rows else site.trace({token: ""})[token]
        except (ClusterUnreachable, AuthenticationFailed) as error:
            why = error.message
            continue
        if rows or (trace and trace.found):
            job_id = min((row.job_id for row in rows), key=int) if rows else trace.job_id if trace else ""
            ports.journal.add(token, step="found", job_id=job_id, at=ports.wall_clock())
            with contextlib.suppress(ClusterUnreachable, AuthenticationFailed):  # whoever looks finds it by name again
                site.keep_job_id(token, job_id)
            return Submitted(token=token, job_id=job_id)
    raise unknown_outcome(token, site.cluster, " ".join(wash_line(why).split()))
