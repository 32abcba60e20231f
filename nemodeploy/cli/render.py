"""nemodeploy render: the files that would be submitted, to read, keep, and run by hand. No network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from nemodeploy.cli import options
from nemodeploy.cli.words import put_json, say, tell
from nemodeploy.errors import BadInput

EXECUTABLE = (".sh", ".sbatch")


@click.command("render", short_help="Write the scripts; no network.")
@options.wish
@options.cluster
@options.as_json
@click.option(
    "--output", "-o", type=click.Path(path_type=Path, file_okay=False), required=True, help="Directory to write to."
)
def command(as_json: bool, output: Path, **typed: Any) -> None:
    """Write nemo_inference.sh, nemo_inference.sbatch, submit.sh and manifest.json to a directory."""
    from nemodeploy.adapters import files
    from nemodeploy.assembly import with_manifest

    wanted = options.resolve(needs_site=False, **typed)
    texts = with_manifest(wanted.plan, wanted.bundle)
    try:
        output.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            files.write_whole(output / name, text)
            (output / name).chmod(0o755 if name.endswith(EXECUTABLE) else 0o644)
    except OSError as error:
        raise BadInput(f"cannot write to {error.filename or output}: {error.strerror}") from error
    if as_json:
        paths = {name: str(output / name) for name in texts}
        put_json({"schema": "nemodeploy/render@1", "digest": wanted.bundle.digest, "files": paths})
        return
    for name in texts:
        say(str(output / name))
    where = "the host" if wanted.plan.scheduler == "none" else "a file system that all nodes share"
    tell(f"copy the directory to {where}, and run: sh submit.sh")
