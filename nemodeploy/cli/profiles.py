"""nemodeploy profiles: the hardware targets there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from nemodeploy.cli import options
from nemodeploy.cli.words import put_json, say, table, tell
from nemodeploy.errors import BadInput


@click.command("profiles", short_help="List the hardware profiles.")
@options.as_json
def command(as_json: bool) -> None:
    """List the hardware profiles: shipped ones and your own."""
    from nemodeploy.adapters import resources

    found = [(name, _data(name)) for name in resources.names("profiles")]
    if as_json:
        rows = [{**data, "name": name} for name, data in found]
        put_json({"schema": "nemodeploy/profiles@1", "profiles": rows})
        return
    lines = [("PROFILE", "HARDWARE", "MODEL", "ENGINE", "LAYOUT")]
    for name, data in found:
        lines.append((name, str(data.get("description", "")), str(data.get("model", "")), *_layout(name)))
    say(table(lines))


def _data(name: str) -> Mapping[str, Any]:
    """What a profile says with what it extends; a broken one is told, and hides no other."""
    from nemodeploy.app import profiles

    try:
        return profiles.load(name).data
    except BadInput as error:
        tell(f"note: profile {name}: {error.message}")
        return {}


def _layout(name: str) -> tuple[str, str]:
    from nemodeploy.app.validating import decided

    try:
        spec = decided(name)
    except BadInput:
        return "?", "?"
    return spec.engine, f"{spec.precision} TP{spec.layout.tensor_parallel} × PP{spec.layout.pipeline_parallel}"
