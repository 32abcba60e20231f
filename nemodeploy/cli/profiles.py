"""nemodeploy profiles: the hardware targets there are."""

from __future__ import annotations

import json

import click

from nemodeploy.cli import options
from nemodeploy.cli.words import table
from nemodeploy.errors import BadInput


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
    lines = [("PROFILE", "HARDWARE", "MODEL", "ENGINE", "LAYOUT")]
    for name, data in found:
        lines.append((name, str(data.get("description", "")), str(data.get("model", "")), *_layout(name)))
    click.echo(table(lines))


def _layout(name: str) -> tuple[str, str]:
    from nemodeploy.app.validating import decided

    try:
        spec = decided(name)
    except BadInput:
        return "?", f"nemodeploy validate says why: {name}"
    return spec.engine, f"{spec.precision} TP{spec.layout.tensor_parallel} × PP{spec.layout.pipeline_parallel}"
