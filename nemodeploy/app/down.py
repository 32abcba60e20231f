"""Giving the GPUs back: returns when Slurm says gone; asking twice is fine."""

from __future__ import annotations

from collections.abc import Sequence

from nemodeploy.app import ending
from nemodeploy.app.ending import Ended
from nemodeploy.app.ports import Ports
from nemodeploy.app.site import Site, unknown_outcome
from nemodeploy.errors import NemodeployError
from nemodeploy.values import Token


def tokens_of(site: Site, name: str | None) -> tuple[Token, ...]:
    """The live tokens of one name, or of all; of one name the newest first, so that no successor starts meanwhile.

    Raises ClusterUnreachable where nobody can tell.
    """
    found = site.look(name=name or "").named(name)
    return tuple(sorted((directory.token for directory in found), key=str, reverse=True))


def down(site: Site, ports: Ports, tokens: Sequence[Token]) -> tuple[list[Ended], list[NemodeployError]]:
    """End every token, one after the other; one that cannot be shown to be gone does not save the others."""
    gone: list[Ended] = []
    failures: list[NemodeployError] = []
    for token in tokens:
        try:
            gone.append(ending.end(site, ports, token))
        except NemodeployError as error:
            failures.append(error)
        except KeyboardInterrupt:
            failures.append(unknown_outcome(token, site.cluster, "interrupted while taking it down"))
            break
    return gone, failures
