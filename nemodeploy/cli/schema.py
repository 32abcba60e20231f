"""nemodeploy schema: JSON Schema of the files, for editors."""

from __future__ import annotations

import click

from nemodeploy.cli.words import put_json

KINDS = ("profile", "model", "cluster")


@click.command("schema", short_help="JSON Schema of a kind of file, for editors.")
@click.argument("kind", type=click.Choice(KINDS))
def command(kind: str) -> None:
    """Print the JSON Schema of profiles, models or clusters; an editor completes and checks with it.

    With the YAML language server: # yaml-language-server: $schema=profile.schema.json as the first line of the file.
    """
    from nemodeploy.assembly import plugins
    from nemodeploy.core.schema import schema

    put_json(schema(kind, plugins()), indent=2)
