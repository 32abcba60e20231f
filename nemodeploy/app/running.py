"""`run`: a deployment for one command, and always its end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nemodeploy.app import ending
from nemodeploy.app.connecting import Connection
from nemodeploy.app.ports import Ports, Reporter
from nemodeploy.app.site import Site, unknown_outcome
from nemodeploy.app.up import IfTaken, Request, up
from nemodeploy.app.watching import Up
from nemodeploy.errors import CancelledByUser, NemodeployError
from nemodeploy.values import Endpoint, Token


@dataclass(kw_only=True, slots=True)
class Ran:
    """How far it came. `phase`: up, command, down or done; `command_exit`: as a shell would say it, None: it never ran.

    `left_up`: whether the deployment stays, because it is another's or was to be kept; `unproven`: what kept its end
    from being shown, after a command that had failed itself. Times in seconds.
    """

    phase: str = "up"
    up: Up | None = None
    command_exit: int | None = None
    left_up: bool = False
    unproven: NemodeployError | None = None
    command_s: float | None = None
    down_s: float | None = None

    @property
    def token(self) -> Token | None:
        """The deployment's, once there is one."""
        return self.up.seen.directory.token if self.up else None


# Start the command with these variables, tell it what we are told, and return its exit code and how many signals came.
Command = Callable[[Mapping[str, str]], tuple[int, int]]


def run(
    site: Site,
    ports: Ports,
    request: Request,
    command: Command,
    ran: Ran,
    *,
    quiet: Reporter,
    if_taken: IfTaken,
    keep_on_failure: bool = False,
) -> None:
    """Up, the command with a tunnel, down. `ran` tells how far it came, whatever is raised; `quiet` reports while the
    command has the terminal.

    Raises what `up` raises; CancelledByUser when it was interrupted and is verified gone; OutcomeUnknown when the end
    cannot be shown although the command succeeded.
    """
    done = ran.up = up(site, ports, request, if_taken=if_taken)
    ports = dataclasses.replace(ports, reporter=quiet)
    begun = ports.clock.now()
    signals, interrupted = 0, False
    connection = _connection(site, ports, done)
    try:
        try:
            url = connection.open(0)
            ran.phase = "command"
            ran.command_exit, signals = command(connection.variables(url))
        except KeyboardInterrupt:  # between two steps of ours
            interrupted, signals = True, 2
    finally:
        ran.command_s = round(ports.clock.now() - begun, 3)
        connection.close()
        ran.left_up = done.adopted or (keep_on_failure and bool(ran.command_exit))
        if not ran.left_up:
            _take_down(site, ports, ran, connection.token, hard=signals > 1)
    if interrupted:
        raise CancelledByUser(f"interrupted; {connection.token.name} is verified gone", token=str(connection.token))
    ran.phase = "done"


def _connection(site: Site, ports: Ports, done: Up) -> Connection:
    directory = done.seen.directory
    assert isinstance(directory.endpoint, Endpoint)
    plan: Mapping[str, Any] = directory.plan
    return Connection(site, ports, directory.token, plan, directory.endpoint)


def _take_down(site: Site, ports: Ports, ran: Ran, token: Token, *, hard: bool) -> None:
    """Verified. Interrupted once more, it hurries; what cannot be shown is raised unless the command failed anyway."""
    begun, phase, ran.phase = ports.clock.now(), ran.phase, "down"
    try:
        try:
            ending.end(site, ports, token, hard=hard)
        except KeyboardInterrupt:
            try:
                ending.end(site, ports, token, hard=True)
            except KeyboardInterrupt:
                raise unknown_outcome(token, site.cluster, "interrupted while taking it down") from None
    except NemodeployError as error:
        if not ran.command_exit:
            raise
        ran.unproven = error
    else:
        ran.phase = phase
    finally:
        ran.down_s = round(ports.clock.now() - begun, 3)
