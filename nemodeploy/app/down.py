"""Giving the GPUs back: returns when Slurm says gone; asking twice is fine."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from nemodeploy.app import ending
from nemodeploy.app.ending import Ended
from nemodeploy.app.look import Look
from nemodeploy.app.ports import Ports
from nemodeploy.app.site import Site, unknown_outcome
from nemodeploy.core import run_directory
from nemodeploy.core.listing import counted
from nemodeploy.errors import BadInput, NemodeployError, OutcomeUnknown
from nemodeploy.values import Token


@dataclass(frozen=True, kw_only=True, slots=True)
class Living:
    """What is up and is to end: its tokens, and the look that showed them."""

    tokens: tuple[Token, ...]
    look: Look


def living(site: Site, names: Collection[str] | None) -> Living:
    """What is up of these names, or of all; the newest first, so that no successor starts meanwhile.

    Raises ClusterUnreachable where it cannot be told whether one of them is up.
    """
    look = site.look(name=next(iter(names)) if names and len(names) == 1 else "")
    wanted = [None] if names is None else names
    found = [directory.token for name in wanted for directory in look.named(name)]
    return Living(tokens=tuple(sorted(found, key=str, reverse=True)), look=look)


def names_seen(site: Site, ports: Ports) -> set[str]:
    """Every name that has, or had, a deployment on this cluster: live, archived, or in the journal of this machine."""
    text = site.ask({"names": run_directory.names_script(site.root)})["names"].text
    noted = {entry.token.name for entry in ports.journal.entries()[0] if entry.cluster == site.cluster.name}
    return noted | set(run_directory.parse_names(text))


def check_names(names: Sequence[str], seen: Collection[str]) -> None:
    """Raises BadInput for a name that no deployment ever had, with the nearest that there are."""
    for name in names:
        if name not in seen:
            near = difflib.get_close_matches(name, sorted(seen), n=3)
            raise BadInput(
                f"there never was a deployment named {name!r}; nothing was taken down",
                hint=f"did you mean {' or '.join(near)}?"
                if near
                else "nemodeploy status; --ignore-missing passes it over",
            )


def down(
    site: Site, ports: Ports, live: Living, results: dict[Token, Ended | NemodeployError] | None = None
) -> dict[Token, Ended | NemodeployError]:
    """End all tokens of a cluster together: the proof of each, or its error. Interrupted, what is not proven yet is
    unknown. `results` is filled as the proofs come."""
    results = {} if results is None else results
    try:
        ending.end_all(site, ports, live.tokens, look=live.look, results=results)
    except KeyboardInterrupt:
        give_up(site, live.tokens, results)
    return results


def give_up(site: Site, tokens: Sequence[Token], results: dict[Token, Ended | NemodeployError]) -> None:
    """Interrupted: of what is not proven yet nothing is known."""
    for token in tokens:
        results.setdefault(token, unknown_outcome(token, site.cluster, "interrupted while taking it down"))


def worst(failures: Sequence[NemodeployError]) -> NemodeployError | None:
    """One error for all: a job that may be alive first, each told by its name."""
    alive = [error for error in failures if error.exit_code == OutcomeUnknown.exit_code]
    rest = [error for error in failures if error not in alive]
    if len(alive) < 2:
        first = (*alive, *rest)[:1]
        return first[0] if first else None
    names = [Token(error.token).name for error in alive if error.token]
    return OutcomeUnknown(
        f"{len(alive)} deployments are not proven gone: {counted(names)}",
        detail=tuple(error.message for error in (*alive, *rest)),
        hint=f"nemodeploy down {' '.join(names)}   goes on where this stopped",
        token=alive[0].token,
    )
