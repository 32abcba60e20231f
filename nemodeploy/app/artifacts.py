"""What is kept of a deployment after its end, for whoever looks for the reason later."""

from __future__ import annotations

import json
from collections.abc import Mapping

from nemodeploy.app.site import Site
from nemodeploy.values import Token

MOST_BYTES = 8_000_000


def collect(site: Site, token: Token, ranks: int) -> Mapping[str, str]:
    """Texts by file name: manifest, events, and the ends of all logs, together at most some megabytes.

    Raises ClusterUnreachable.
    """
    logs = site.logs_of(token, tail_bytes=MOST_BYTES // (ranks + 2))
    events = (json.dumps(event.as_json()) + "\n" for event in site.history(token).events)
    found = {f"logs/{name}": text for name, text in logs.items()}
    found |= {"events.jsonl": "".join(events), "manifest.json": site.manifest_of(token)}
    return {name: text for name, text in found.items() if text}
