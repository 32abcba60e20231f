"""What clients that were killed have left in the journal, compared with what the cluster says."""

from __future__ import annotations

from nemodeploy.app.ports import Ports
from nemodeploy.app.site import Site


def settle(site: Site, ports: Ports, name: str | None = None) -> None:
    """Forget the notes of dead clients whose token is not up, after making sure that it never can be.

    A note whose process lives, or lived on another machine, stays; so does one whose token is up: `down` forgets it.
    """
    entries, _ = ports.journal.entries()
    left = [
        entry
        for entry in entries
        if entry.is_left and entry.cluster == site.cluster.name and name in (None, entry.token.name)
    ]
    if not left:
        return
    look = site.look()
    up = {*(str(directory.token) for directory in look.directories), *look.rows}
    for entry in left:
        if not look.answered or str(entry.token) in up:
            continue
        if entry.step != "intent" or site.withhold(entry.token):
            ports.journal.forget(entry.token)
