"""The Python interface: a deployment as a `with` block.

with nemodeploy.deployment(profile="h100x16", cluster="site") as server:
    print(server.generate("What is the capital of France?"))
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from nemodeploy.app import asking, ci, opening
from nemodeploy.app.connecting import Connection
from nemodeploy.app.running import Ran, lent
from nemodeploy.app.up import IfTaken, Lease, Request
from nemodeploy.app.wanted import Wanted, Wish, resolve, secrets
from nemodeploy.core.foreign import wash_line
from nemodeploy.core.patience import Budget
from nemodeploy.errors import BadInput, ClusterUnreachable

log = logging.getLogger("nemodeploy")

TTL_S = 300
QUEUE_TIMEOUT_S = 4 * 3600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """A server that has answered. `url` is on this machine and wants the key, which `variables` have as
    NEMODEPLOY_API_KEY; `protocol`: openai, or with `raw` the engine's own."""

    name: str
    token: str
    url: str
    protocol: str
    model: str
    connection: Connection

    @property
    def variables(self) -> Mapping[str, str]:
        """What `nemodeploy run` puts into the environment of its command."""
        return self.connection.variables(os.environ)

    def generate(self, prompt: str, *, max_tokens: int = 256, timeout_s: float = 600.0) -> str:
        """One answer, in the model's own template. Raises ClusterUnreachable, or PreflightFailed when it is no text."""
        to = self.connection
        if to.endpoint is None:
            hint = to.site.cluster.command("status", self.name)
            raise ClusterUnreachable(f"{self.name} is not serving", hint=hint)
        return asking.generate(to.site, to.endpoint, to.plan, prompt, max_tokens=max_tokens, timeout_s=timeout_s)


@contextlib.contextmanager
def deployment(
    *,
    profile: str,
    cluster: str | None = None,
    model: str | None = None,
    engine: str | None = None,
    name: str | None = None,
    reuse: bool = False,
    settings: Mapping[str, object] | None = None,
    ttl_s: int | None = None,
    queue_timeout_s: float = QUEUE_TIMEOUT_S,
    startup_timeout_s: float | None = None,
    raw: bool = False,
) -> Iterator[Server]:
    """Up, a tunnel, and at the end of the block down, verified; with the guarantees of `nemodeploy run`.

    Names, `settings` (dotted keys) and times (seconds) mean what they mean on the command line. Without `name` it gets
    one of its own; with `name` and `reuse` it uses what is up under that name and leaves it up; `raw`: the
    engine's own protocol instead of OpenAI's. Raises the errors of
    nemodeploy.errors.
    """
    if reuse and not name:
        raise BadInput("reuse without name: use what?", hint='name="…", reuse=True')
    wanted = _wanted(profile, cluster, name, {"model": model, "engine": engine, **(settings or {})})
    request = _request(wanted, ttl_s, queue_timeout_s, startup_timeout_s)
    ran, teller = Ran(), _Logger()
    if_taken = IfTaken.ADOPT if reuse else IfTaken.REFUSE
    ports = opening.ports(teller, os.environ)
    try:
        with (
            opening.site(wanted.cluster) as site,
            lent(site, ports, request, ran, quiet=teller, if_taken=if_taken, raw=raw) as connection,
        ):
            variables = connection.variables(os.environ)
            yield Server(
                name=connection.token.name,
                token=str(connection.token),
                url=connection.url,
                protocol=variables["NEMODEPLOY_PROTOCOL"],
                model=variables["NEMODEPLOY_MODEL"],
                connection=connection,
            )
    finally:
        if ran.unproven:
            log.error("%s; try %s", ran.unproven.message, ran.unproven.hint)


def _wanted(profile: str, cluster: str | None, name: str | None, settings: Mapping[str, object]) -> Wanted:
    flags = [(key, value, f"argument {key}") for key, value in settings.items() if value is not None]
    wish = Wish(profile=profile, name=name, cluster=cluster, settings=flags)
    wanted = resolve(wish, os.environ, needs_site=True)
    own = name or ci.name_of_its_own(wanted.plan.name, os.environ)
    return wanted if name else resolve(replace(wish, name=own), os.environ, needs_site=True)


def _request(wanted: Wanted, ttl_s: int | None, queue_s: float, startup_s: float | None) -> Request:
    minimum_s = wanted.cluster.lease_minimum_s
    if ttl_s is not None and ttl_s < minimum_s:
        raise BadInput(f"ttl_s={ttl_s} is too short: the smallest lease on {wanted.cluster.name} is {minimum_s} s")
    return Request(
        plan=wanted.plan,
        bundle=wanted.bundle,
        secrets=secrets(wanted.plan.secrets, os.environ),
        budget=Budget(queue_s=queue_s, startup_s=startup_s or float(wanted.plan.startup_budget_s)),
        lease=Lease(ttl_s or max(TTL_S, minimum_s), asked=ttl_s is not None),
    )


class _Logger:
    """A reporter for programs: everything goes to the logger `nemodeploy`."""

    def say(self, phase: str, text: str) -> None:
        """One change."""
        log.info("%s %s", wash_line(phase), wash_line(text))

    def live(self, phase: str, text: str) -> None:
        """Nothing new, so nothing."""

    def wants_cancel(self, token: str) -> bool:
        """Nobody is asked: it is taken back."""
        del token
        return True
