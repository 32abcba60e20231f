"""nemodeploy validate: are these files right? No network."""

from __future__ import annotations

from typing import Any

import click

from nemodeploy.cli import options
from nemodeploy.cli.failing import error_document, show_error
from nemodeploy.cli.words import put_json, say
from nemodeploy.errors import BadInput

SCHEMA = "nemodeploy/validate@1"


@click.command("validate", short_help="Check profiles, models and clusters; no network.")
@click.argument("files", metavar="FILE…", nargs=-1, required=True)
@click.option("--kind", type=click.Choice(("profile", "model", "cluster")), help="Default: seen from each file itself.")
@options.as_json
def command(as_json: bool, files: tuple[str, ...], kind: str | None) -> int:
    """Check files as `plan` would, every mistake of every file at once. Exit code 2 when one is wrong."""
    from nemodeploy.app.validating import validate

    rows: list[dict[str, Any]] = []
    wrong = 0
    for name in files:
        try:
            found = validate(name, kind, files)
            rows.append({"file": name, "kind": found, "ok": True})
            if not as_json:
                say(f"{name}: a {found}, and right")
        except BadInput as error:
            wrong = show_error(error, as_json=False)
            rows.append({"file": name, "ok": False, **error_document(error)})
    if as_json:
        put_json({"schema": SCHEMA, "files": rows})
    return wrong
