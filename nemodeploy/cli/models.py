"""nemodeploy models: what can be served, and everything known about one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from nemodeploy.cli import options
from nemodeploy.cli.words import put_json, say, table, tell
from nemodeploy.errors import BadInput

if TYPE_CHECKING:
    from nemodeploy.core.spec import Model


@click.group("models", short_help="List the models, or show one.", invoke_without_command=True)
@options.as_json
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """List the models: shipped ones and your own. `models show NAME` has the facts and where they are from."""
    if context.invoked_subcommand:
        return
    from nemodeploy.adapters import resources
    from nemodeploy.app.wanted import known_model

    found = []
    for name in resources.names("models"):
        try:
            found.append(known_model(name))
        except BadInput as error:  # a broken one hides no other
            tell(f"note: model {name}: {error.message}")
    if as_json:
        put_json({"schema": "nemodeploy/models@1", "models": [_facts(model) for model in found]})
        return
    lines = [("MODEL", "SIZE", "CONTEXT", "PRECISION", "ENGINES")]
    for model in found:
        size = f"{model.parameters_b:g} B"
        lines.append((model.name, size, str(model.context), ", ".join(model.precisions), ", ".join(model.engines)))
    say(table(lines))


@command.command("show", short_help="The facts of one model.")
@click.argument("name")
@options.as_json
@click.pass_context
def show(context: click.Context, as_json: bool, name: str) -> None:
    """Show what is known about a model, and where every fact is from."""
    from nemodeploy.app.wanted import known_model

    model = known_model(name)
    if as_json or (context.parent and context.parent.params["as_json"]):
        put_json({"schema": "nemodeploy/model@1", **_facts(model)})
        return
    for line in (*_text(model), "", *_checkpoints(model), "", *_reasons(model)):
        say(line)


def _facts(model: Model) -> dict[str, Any]:
    from dataclasses import asdict

    kv_heads = {str(count): model.kv_heads.count(count) for count in dict.fromkeys(model.kv_heads)}
    derived = {"engines": list(model.engines), "precisions": list(model.precisions)}
    return {**asdict(model), "kv_heads": kv_heads, **derived}


def _text(model: Model) -> list[str]:
    heads = {count: model.kv_heads.count(count) for count in dict.fromkeys(model.kv_heads)}
    kv_heads = ", ".join(f"{count} in {layers} layers" for count, layers in heads.items())
    kv_bytes = 2 * model.head_size * 2 * sum(model.kv_heads)
    sampling = ", ".join(f"{key} {value}" for key, value in model.sampling.items())
    rows = (
        ("description", model.description, ""),
        ("licence", model.licence + (f"; {model.gated}" if model.gated else ""), ""),
        ("card", model.card, ""),
        ("parameters", f"{model.parameters_b:g} billion", "sizes"),
        ("layers", f"{model.layers} of width {model.hidden}", "sizes"),
        ("heads", f"{model.heads} of size {model.head_size}; KV heads: {kv_heads}", "sizes"),
        ("KV cache", f"{kv_bytes:,} bytes a token in bf16", "sizes"),
        ("vocabulary", f"{model.vocabulary:,}", "sizes"),
        ("context", f"{model.context:,} tokens", "context"),
        ("prompt", repr(model.prompting.template), "prompt"),
        ("stop", " ".join(map(repr, model.prompting.stop)), "prompt"),
        ("sampling", sampling, ""),
        ("code", "its own (trust_remote_code)" if model.trust_remote_code else "the library's", ""),
    )
    lines = [f"{model.name}"]
    for name, text, source in rows:
        if text:
            lines.append(f"  {name.ljust(12)}{text}")
            lines += [f"  {' ' * 12}  from {model.sources[source]}"] if _first(rows, name, source, model) else []
    return lines


def _first(rows: Any, name: str, source: str, model: Model) -> bool:
    """Whether this is the last row of its source, where the source is told."""
    return source in model.sources and name == [row[0] for row in rows if row[2] == source][-1]


def _checkpoints(model: Model) -> list[str]:
    lines = [("CHECKPOINT", "PRECISION", "SIZE", "ENGINES", "FROM")]
    for one in model.checkpoints:
        lines.append((one.kind, one.precision, f"{one.size_gb:g} GB", ", ".join(one.engines), one.source))
    return table(lines).splitlines()


def _reasons(model: Model) -> list[str]:
    return [f"not by {engine}: {reason}" for engine, reason in model.cannot.items()]
