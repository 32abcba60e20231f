"""nemodeploy models: what can be served."""

from __future__ import annotations

import json

import click

from nemodeploy.cli import options
from nemodeploy.cli.words import table


@click.command("models", short_help="List the models.")
@options.as_json
def command(as_json: bool) -> None:
    """List the models: shipped ones and your own."""
    from nemodeploy.adapters import resources
    from nemodeploy.core.model_files import decode_model

    found = [decode_model(name, resources.find("models", name)) for name in resources.names("models")]
    if as_json:
        rows = [
            {
                "name": model.name,
                "description": model.description,
                "parameters_b": model.parameters_b,
                "context": model.context,
                "precisions": list(model.precisions),
                "engines": list(model.engines),
            }
            for model in found
        ]
        click.echo(json.dumps({"schema": "nemodeploy/models@1", "models": rows}))
        return
    lines = [("MODEL", "SIZE", "CONTEXT", "PRECISION", "ENGINES")]
    for model in found:
        size = f"{model.parameters_b:g} B"
        lines.append((model.name, size, str(model.context), ", ".join(model.precisions), ", ".join(model.engines)))
    click.echo(table(lines))
