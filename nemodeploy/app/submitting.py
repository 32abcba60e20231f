"""Submitting exactly once: run directory, upload, the link `active`, a detached sbatch, its receipt.

One remote call does it all. After any doubt the token is looked up; it is never submitted again without proof that
nothing was accepted, and `submit/go` is that proof: whoever makes it is the only one who may run sbatch.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from nemodeploy.app.ports import Ports
from nemodeploy.app.site import FOLLOW_LINKS, Site, unknown_outcome
from nemodeploy.core import sections
from nemodeploy.core.plan import Bundle, Plan, manifest
from nemodeploy.core.sections import Section
from nemodeploy.errors import (
    AuthenticationFailed,
    ClusterUnreachable,
    NemodeployError,
    PreflightFailed,
    SubmissionRefused,
)
from nemodeploy.values import Secret, Token

RECEIPT_WITHIN_S = 180
CALL_WITHIN_S = RECEIPT_WITHIN_S + 60.0
RECONNECT_AFTER_S = (1.0, 15.0, 30.0)
_NOT_WRITABLE, _TAKEN = 73, 75


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
) -> Submitted | Taken:
    """Take the deployment's name with a token that the journal knows, and submit.

    `after`: a token of that name which is proven gone.

    Raises PreflightFailed (no run directory), SubmissionRefused, ClusterUnreachable (nothing submitted) or
    OutcomeUnknown.
    """
    facts = {"token": str(token), "owner": ports.owner, "version": ports.version, "created_at": ports.wall_clock()}
    files = {**bundle.files, "manifest.json": manifest(plan, bundle, **facts)}
    if secrets:
        files["secrets.env"] = "".join(f"{key}={shlex.quote(value.reveal())}\n" for key, value in secrets.items())
    try:
        answer = site.ask(
            {"take": _take_script(site, token, files, after), "receipt": _receipt_script(site, token)},
            within_s=CALL_WITHIN_S,
        )
    except NemodeployError as error:
        if not isinstance(error, ClusterUnreachable):
            ports.journal.forget(token)
            raise
        return recover(site, ports, token, error)
    taken = answer["take"]
    if taken.status == _TAKEN:
        ports.journal.forget(token)
        return Taken(token=Token(taken.text.split()[-1]))
    if taken.status:
        ports.journal.forget(token)
        raise PreflightFailed(
            f"cannot make the run directory {site.cluster.root}/deployments/{plan.name} on {site.cluster.name}: "
            f"{' '.join(taken.text.split())}",
            hint="set root: in the cluster file to a directory you can write, on a file system that all nodes share",
        )
    return read_receipt(site, ports, token, answer["receipt"].text)


def _take_script(site: Site, token: Token, files: Mapping[str, str], after: Token | None) -> str:
    uploads = "".join(sections.here_document(name, text) for name, text in files.items())
    return f"""\
set -u; umask 077; exec 2>&1
root={site.root}; d=$root/deployments/{token.name}; t={token}; proven={after or "none"}
mkdir -p "$d" "$root/archive" && chmod 700 "$root/deployments" "$root/archive" "$d" || exit {_NOT_WRITABLE}
mkdir "$d/$t" "$d/$t/submit" && cd "$d/$t" || exit {_NOT_WRITABLE}
{uploads}
for file in {" ".join(files)}; do
  [ -s "$file" ] || {{ echo "$file was not written"; cd /; rm -rf "$d/$t"; exit {_NOT_WRITABLE}; }}
done
{FOLLOW_LINKS}
if [ -z "$live" ]; then
  ln -sT "$t" "$d/active" && exit 0
elif [ "$live" = "$proven" ] || [ ! -d "$d/$live" ]; then
  # Exactly one successor can be made for a token, so two clients cannot both follow it.
  if ln -sT "$t" "$d/after.$live"; then
    ln -sT "$t" "$d/active.$t" && mv -T "$d/active.$t" "$d/active"
    [ ! -d "$d/$live" ] || {{ rm -f "$d/$live/secrets.env"; mv "$d/$live" "$root/archive/"; }}
    exit 0
  fi
fi
cd /; rm -rf "$d/$t"
{FOLLOW_LINKS}
[ -n "$live" ] || {{ echo "no symbolic link can be made in $d"; exit {_NOT_WRITABLE}; }}
echo "$live"; exit {_TAKEN}
"""


def _receipt_script(site: Site, token: Token) -> str:
    """Run submit.sh detached unless somebody has, wait for its receipt, and print it."""
    return f"""\
cd {site.directory(token)} 2>/dev/null || exit 3
ours=$(readlink ../active ../after.* 2>/dev/null | while read -r live; do [ "$live" != {token} ] || echo yes; done)
[ -n "$ours" ] || exit 3
if mkdir submit/go 2>/dev/null; then
  one_shot='
    sh ./submit.sh "$PWD" "$1" >submit/out.new 2>submit/sbatch.err; status=$?
    mv submit/out.new submit/sbatch.out; echo "$status" >submit/rc.new; mv submit/rc.new submit/sbatch.rc
  '
  # What a shell starts in the background is deaf to INT for good, with all its children; only bash can undo that.
  "$(command -v bash || echo sh)" -c '(trap - INT; exec nohup sh -c "$@") </dev/null >/dev/null 2>&1 &' \\
    detached "$one_shot" one-shot {token}
fi
waited=0
until [ -e submit/sbatch.rc ] || [ -e submit/withheld ] || [ "$waited" -ge {RECEIPT_WITHIN_S * 20} ]; do
  sleep 0.05
  waited=$((waited + 1))
done
[ -e submit/sbatch.rc ] || exit 4
head -c 4096 submit/sbatch.rc; echo out; head -c 4096 submit/sbatch.out; echo; echo err; head -c 8192 submit/sbatch.err
"""


def read_receipt(site: Site, ports: Ports, token: Token, text: str) -> Submitted:
    """What sbatch said: accepted, refused, or in doubt and then looked up by name."""
    status_text, _, rest = text.lstrip("\n").partition("\nout\n")
    out, _, error = rest.partition("\nerr\n")
    status = int(status_text) if status_text.strip().isdigit() else None
    job_id = site.scheduler.parse_job_id(out)
    if status == 0 and job_id:
        ports.journal.add(token, cluster=site.cluster.name, step="submitted", job_id=job_id, at=ports.wall_clock())
        return Submitted(token=token, job_id=job_id)
    if status != 127 and (status is None or not site.scheduler.was_refused(status, error)):
        return _look_up(site, ports, token, error or f"{site.scheduler.submitter} gave no answer")
    site.archive(token)
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
    lines = tuple(line for line in error.splitlines() if line.strip())
    raise SubmissionRefused(
        f"{site.scheduler.name.capitalize()} refused the job: {_last_words(lines)}",
        detail=lines,
        hint=_refusal_hint(error),
        token=str(token),
    )


def _last_words(lines: tuple[str, ...]) -> str:
    return lines[-1].rpartition("error: ")[2] if lines else "no reason given"


def _refusal_hint(error: str) -> str:
    hints = (
        ("partition", "set slurm.partition in the cluster file; sinfo on the login host lists them"),
        ("account", "set slurm.account in the cluster file"),
        ("gres", "set gpus: in the cluster file to how this site asks for GPUs"),
        ("time limit", "ask for less: --set time=01:00:00"),
        ("node configuration", "no node of the partition has that many GPUs; compare with sinfo on the login host"),
    )
    return next((hint for word, hint in hints if word in error.lower()), "")


def _ask_receipt(site: Site, token: Token) -> Section:
    return site.ask({"receipt": _receipt_script(site, token)}, within_s=CALL_WITHIN_S)["receipt"]


def finish(site: Site, ports: Ports, token: Token) -> Submitted:
    """Submit a token that has the name but no receipt, unless somebody is at it; then wait for theirs."""
    return read_receipt(site, ports, token, _ask_receipt(site, token).text)


def recover(site: Site, ports: Ports, token: Token, error: ClusterUnreachable) -> Submitted:
    """The connection broke somewhere in the submission: find out how far it came."""
    for pause in RECONNECT_AFTER_S:
        ports.reporter.say("doubt", f"{error.message}; looking the token up in {pause:.0f} s")
        ports.clock.sleep(pause)
        try:
            answer = _ask_receipt(site, token)
        except ClusterUnreachable as again:
            error = again
            continue
        except AuthenticationFailed as refused:
            raise unknown_outcome(token, site.cluster, refused.message) from refused
        if answer.status == 3 and site.withhold(token):  # the name was not taken, and now nobody can submit
            ports.journal.forget(token)
            raise error
        return read_receipt(site, ports, token, answer.text)
    raise unknown_outcome(token, site.cluster, error.message)


def _look_up(site: Site, ports: Ports, token: Token, why: str) -> Submitted:
    """sbatch gave no clear answer: ask the queue for the token, patiently; never submit again here."""
    for pause in (0.0, 5.0, 10.0, 15.0):
        ports.clock.sleep(pause)
        try:
            rows = site.look().rows.get(str(token), ())
        except (ClusterUnreachable, AuthenticationFailed) as error:
            why = error.message
            continue
        if rows:
            job_id = min((row.job_id for row in rows), key=int)
            ports.journal.add(token, cluster=site.cluster.name, step="found", job_id=job_id, at=ports.wall_clock())
            _repair_receipt(site, token, job_id)
            return Submitted(token=token, job_id=job_id)
    raise unknown_outcome(token, site.cluster, " ".join(why.split()))


def _repair_receipt(site: Site, token: Token, job_id: str) -> None:
    script = f"cd {site.directory(token)} && echo {int(job_id)} >submit/found && mv submit/found submit/sbatch.out"
    site.ask({"repair": script})
