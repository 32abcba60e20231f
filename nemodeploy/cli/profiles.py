"""nemodeploy profiles: the hardware targets there are."""

from __future__ import annotations

import json

import click

from nemodeploy.cli import options
from nemodeploy.cli.words import table


@click.command("profiles", short_help="List the hardware profiles.")
@options.as_json
def command(as_json: bool) -> None:
    """List the hardware profiles: shipped ones and your own."""
    from nemodeploy.adapters import resources

    found = [(name, resources.find("profiles", name).data) for name in resources.names("profiles")]
    if as_json:
        rows = [{"name": name, **data} for name, data in found]
        click.echo(json.dumps({"schema": "nemodeploy/profiles@1", "profiles": rows}))
        return
    lines = [("PROFILE", "HARDWARE", "MODEL", "LAYOUT")]
    for name, data in found:
        layout = data.get("layout") or {}
        cut = f"TP{layout.get('tensor_parallel', '?')} × PP{layout.get('pipeline_parallel', '?')}"
        lines.append((name, str(data.get("description", "")), str(data.get("model", "")), cut))
    click.echo(table(lines))
