"""nemodeploy generate: one question, one answer, through the tunnel."""

from __future__ import annotations

import contextlib
import json

import click

from nemodeploy.cli import options, world

TIMEOUT_S = 600.0


@click.command("generate", short_help="Ask it something.")
@click.argument("name")
@click.argument("prompt")
@options.networked
@click.option(
    "--max-tokens", type=click.IntRange(1, 100_000), default=256, show_default=True, help="Length of the answer."
)
def command(name: str, prompt: str, cluster: str | None, as_json: bool, max_tokens: int) -> None:
    """Send a prompt in the model's own template and print what it generates."""
    from nemodeploy.app import asking

    world.require_name(name)
    with contextlib.ExitStack() as stack:
        site, directory, endpoint = world.serving(stack, cluster, name)
        if directory.ttl_s is not None:
            site.renew(directory.token)
        text = asking.generate(site, endpoint, directory.plan, prompt, max_tokens=max_tokens, timeout_s=TIMEOUT_S)
    if as_json:
        click.echo(json.dumps({"schema": "nemodeploy/generate@1", "name": name, "prompt": prompt, "text": text}))
    else:
        click.echo(text)
