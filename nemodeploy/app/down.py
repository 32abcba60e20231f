"""Giving the GPUs back: returns when Slurm says gone; asking twice is fine."""

from __future__ import annotations

from collections.abc import Sequence

from nemodeploy.app import ending
from nemodeploy.app.ending import Ended
from nemodeploy.app.ports import Ports
from nemodeploy.app.site import Site
from nemodeploy.values import Token


def tokens_of(site: Site, name: str | None) -> tuple[Token, ...]:
    """The live tokens of one name, or of all."""
    look = site.look()
    return tuple(directory.token for directory in (look.named(name) if name else look.directories))


def down(site: Site, ports: Ports, tokens: Sequence[Token]) -> tuple[Ended, ...]:
    """End every token, one after the other. Raises OutcomeUnknown for the first that cannot be shown to be gone."""
    return tuple(ending.end(site, ports, token) for token in tokens)
