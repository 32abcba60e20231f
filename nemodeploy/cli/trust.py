"""nemodeploy trust: the host keys of a cluster's login hosts."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from nemodeploy.cli import options
from nemodeploy.cli.words import confirm, put_json, say, somebody_is_there, tell
from nemodeploy.errors import BadInput, HostKeyRejected, PreflightFailed

if TYPE_CHECKING:
    from nemodeploy.adapters.transports.host_keys import HostKey
    from nemodeploy.core.spec import Cluster

SCHEMA = "nemodeploy/trust@1"
FINGERPRINT = r"SHA256:[A-Za-z0-9+/]{43}"


@click.command("trust", short_help="Show and record the host keys of a cluster.")
@click.argument("cluster", metavar="CLUSTER|HOST")
@click.option("--ssh-config", "config", default="", metavar="FILE", help="For a HOST without a cluster file.")
@click.option("--fingerprint", "wanted", metavar="SHA256:…", help="Record the key that has it, and ask nobody.")
@options.as_json
@options.verbose
def command(cluster: str, config: str, wanted: str | None, as_json: bool) -> int:
    """Show the fingerprints of the login hosts' keys, to be compared with those that the site publishes.

    On a terminal it asks whether they are the same, and then records them; otherwise it shows them.
    """
    from nemodeploy.adapters import terminal
    from nemodeploy.adapters.transports.host_keys import KNOWN, REVOKED, offered
    from nemodeploy.app.surveying import cluster_or_host

    if wanted is not None and not re.fullmatch(FINGERPRINT, wanted.strip()):
        raise BadInput(f"--fingerprint {wanted} is none", hint="SHA256: and 43 characters, as ssh-keygen -l prints it")
    wanted = wanted.strip() if wanted else None
    site = cluster_or_host(cluster, config)
    if site.transport == "local":
        raise PreflightFailed(f"cluster {site.name} is this machine; no host key is asked for")
    found = [offered(site, host, terminal.asker()) for host in site.ssh.hosts]
    if not as_json:
        for key in found:
            say(f"{key.host}  {key.fingerprint}  {key.state}")
    if wanted is not None and wanted not in [key.fingerprint for key in found]:
        raise HostKeyRejected(
            f"no host shows {wanted}; it is {found[0].fingerprint}", hint="ask the site; record neither"
        )
    left = [key for key in found if key.state != KNOWN]
    recorded = [
        key
        for key in left
        if key.state != REVOKED and not site.ssh.host_keys and _record(key, wanted, may_ask=not as_json)
    ]
    refused = _refused(site, [key for key in left if key not in recorded])
    if as_json:
        rows = [
            {"host": key.host, "fingerprint": key.fingerprint, "line": key.line, "state": key.state} for key in found
        ]
        document = {"schema": SCHEMA, "name": site.name, "keys": rows, "recorded": len(recorded)}
        put_json(document if refused is None else {**document, "error": refused.message})
        return refused.exit_code if refused else 0
    tell("\nto trust these and no others, in the cluster file's ssh section:")
    tell(f"  host_keys: {json.dumps([key.line for key in found])}")
    if refused:
        raise refused
    return 0


def _refused(site: Cluster, left: Sequence[HostKey]) -> HostKeyRejected | None:
    if not left:
        return None
    if site.ssh.host_keys:
        what, hint = (
            "its cluster file pins other keys",
            "put the line above into ssh.host_keys, once the site has confirmed it",
        )
        return HostKeyRejected(f"the host key of {left[0].host} is another one, and {what}", hint=hint)
    what = "nothing was recorded"
    hint = f"nemodeploy trust {site.called} --fingerprint {left[0].fingerprint}   once the site has confirmed it"
    return HostKeyRejected(f"the host key of {left[0].host} is {left[0].state}, and {what}", hint=hint)


def _record(key: HostKey, wanted: str | None, *, may_ask: bool) -> bool:
    if not (wanted == key.fingerprint if wanted is not None else may_ask and somebody_is_there()):
        return False
    with _told_where(key):
        key.check()  # before a person compares fingerprints for nothing
        question = f"is {key.fingerprint} the fingerprint that the site publishes for {key.host}?"
        if wanted is None and not confirm(question):
            return False
        key.record()
    tell(f"recorded in {key.file}")
    return True


@contextlib.contextmanager
def _told_where(key: HostKey) -> Iterator[None]:
    """Raises PreflightFailed where the file takes nothing, with the line for the cluster file instead."""
    from nemodeploy.adapters.files import NotRegular

    hint = f"put the line into ssh.host_keys of the cluster file: host_keys: {json.dumps([key.line])}"
    try:
        yield
    except NotRegular as error:
        raise PreflightFailed(f"nothing can be recorded in {key.file}: {error.strerror}", hint=hint) from error
    except OSError as error:
        raise PreflightFailed(f"{key.file} cannot be written: {error.strerror}", hint=hint) from error
