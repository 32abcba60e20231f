"""A deployment for as long as somebody uses it, and always its end."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from nemodeploy.app import connecting, ending
from nemodeploy.app.connecting import Connection
from nemodeploy.app.holding import Held
from nemodeploy.app.ports import Ports, Reporter
from nemodeploy.app.site import Site
from nemodeploy.app.up import IfTaken, Request, up
from nemodeploy.app.watching import Up
from nemodeploy.errors import NemodeployError
from nemodeploy.values import Endpoint, Token


@dataclass(kw_only=True, slots=True)
class Ran:
    """How far it came. `phase`: up, command, down or done; `command_exit`: as a shell would say it, None: it never ran.

    `ours`: what was submitted for it. `failed`: whether it did, and `signals`: how many came meanwhile. `left_up`: the
    deployment stays, because it is another's or was to be kept; `gone`: its end is proven. `unproven`: what kept its
    end from being shown, after a command that had failed itself. `held_s`: for how long its job held nodes. Times in
    seconds.
    """

    phase: str = "up"
    up: Up | None = None
    ours: list[Token] = field(default_factory=list)
    command_exit: int | None = None
    signals: int = 0
    failed: bool = False
    left_up: bool = False
    gone: bool = False
    unproven: NemodeployError | None = None
    command_s: float | None = None
    down_s: float | None = None
    held: Held = field(default_factory=Held)
    held_s: float = 0.0

    @property
    def token(self) -> Token | None:
        """The deployment's, once there is one."""
        return self.up.seen.directory.token if self.up else None


@contextlib.contextmanager
def lent(
    site: Site,
    ports: Ports,
    request: Request,
    ran: Ran,
    *,
    quiet: Reporter,
    if_taken: IfTaken,
    keep_on_failure: bool = False,
    raw: bool = False,
) -> Iterator[Connection]:
    """A deployment with a tunnel to it, for as long as the `with` block lasts; then its end, verified.

    `raw`: the tunnel speaks the engine's own protocol. `ran` tells how far it came, whatever is raised; `quiet` reports
    from READY on. Raises what `up` raises, and OutcomeUnknown when the end cannot be shown although all else went well.
    """
    connecting.check(request.plan.protocol, raw=raw)
    quietly = dataclasses.replace(ports, reporter=quiet)
    connection: Connection | None = None
    begun, hard = 0.0, False
    try:
        ran.up = up(site, ports, request, if_taken=if_taken, ours=ran.ours, held=ran.held)
        begun, connection = ports.clock.now(), _connection(site, quietly, ran.up, raw=raw)
        connection.open(0)
        ran.phase = "command"
        yield connection
    except BaseException as error:
        hard, ran.failed = isinstance(error, KeyboardInterrupt), True
        raise
    finally:
        try:
            if connection is not None:
                ran.command_s = round(ports.clock.now() - begun, 3)
                connection.close()
        finally:  # whatever comes in between
            ran.held_s = ran.held.seconds(ports.clock.now())
            if ran.up is not None or hard:  # otherwise `up` has said what became of it
                ran.left_up = not ran.ours or (keep_on_failure and ran.failed)
                if not ran.left_up:
                    _take_down(site, quietly, ran, ran.ours[0], hard=hard or ran.signals > 1)
    ran.phase = "done"


def _connection(site: Site, ports: Ports, done: Up, *, raw: bool) -> Connection:
    directory = done.seen.directory
    assert isinstance(directory.endpoint, Endpoint)
    plan: Mapping[str, Any] = directory.plan
    return Connection(site, ports, directory.token, plan, directory.endpoint, raw=raw)


def _take_down(site: Site, ports: Ports, ran: Ran, token: Token, *, hard: bool) -> None:
    """Verified. Interrupted once more, it hurries; what cannot be shown is raised unless the command failed anyway."""
    begun, phase, ran.phase = ports.clock.now(), ran.phase, "down"
    try:
        ended = ending.end_for_user(site, ports, token, hard=hard, reason="its nemodeploy run was over")
    except NemodeployError as error:
        if not ran.failed:
            raise
        ran.unproven = error
    else:
        ran.phase, ran.gone = phase, True
        ports.reporter.say("gone", f"{token.name}, job {ended.job_id}: nothing is held any more")
    finally:
        ran.down_s = round(ports.clock.now() - begun, 3)
        ran.held_s = ran.held.seconds(ports.clock.now())
