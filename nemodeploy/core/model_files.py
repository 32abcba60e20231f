"""From a model file to the facts in it. Every key of such a file is read here."""

from __future__ import annotations

import re
from collections.abc import Mapping

from nemodeploy.core.documents import Document
from nemodeploy.core.reading import Reader
from nemodeploy.core.spec import Checkpoint, Model, Prompting

PRECISIONS = ("fp32", "bf16", "fp16", "fp8")


def decode_model(name: str, document: Document) -> Model:
    """The facts of a model file. Its `defaults:` are a layer of the deployment, read with that."""
    reader = Reader.of(document)
    model = read_model(name, reader)
    reader.finish(f"model {name}")
    return model


def read_model(name: str, reader: Reader) -> Model:
    """Every key of a model file."""
    reader.ignore("defaults")
    if not isinstance(reader.data.get("defaults", {}), Mapping):
        reader.complain("defaults", "must be a mapping of settings")
    heads = reader.integer("heads", most=10**5)
    sampling = reader.section("sampling")
    layers = reader.integer("layers", most=10_000)
    return Model(
        name=name,
        description=reader.text("description", ""),
        parameters_b=reader.number("parameters_b", most=10**6),
        layers=layers,
        hidden=reader.integer("hidden", most=10**6),
        heads=heads,
        kv_heads=_kv_heads(reader, layers, heads),
        head_size=reader.integer("head_size", most=10**5),
        vocabulary=reader.integer("vocabulary", most=10**8),
        context=reader.integer("context", least=16, most=10**9),
        tied_embeddings=reader.flag("tied_embeddings", False),
        prompting=_prompting(reader.section("prompt"), sampling.integer("max_tokens", 256)),
        checkpoints=tuple(_checkpoint(kind, one) for kind, one in reader.sections("checkpoints").items()),
        cannot=reader.table("cannot", names=r"[a-z0-9-]+"),
        trust_remote_code=reader.flag("trust_remote_code", False),
        licence=reader.text("licence", ""),
        gated=reader.text("gated", ""),
        card=reader.text("card", ""),
        sampling={
            "greedy": sampling.flag("greedy", True),
            "temperature": sampling.number("temperature", 1.0),
            "top_p": sampling.number("top_p", 1.0, above=-1.0),
            "top_k": sampling.integer("top_k", 0, least=0),
            "repetition_penalty": sampling.number("repetition_penalty", 1.0),
            "max_tokens": sampling.integer("max_tokens", 256),
        },
        sources=reader.table("sources", names=r"[a-z0-9_]+"),
    )


def _kv_heads(reader: Reader, layers: int | None, heads: int | None) -> tuple[int, ...]:
    """`8`, or for layers that differ `{8: 44, 0: 26}`: how many layers have how many."""
    if not isinstance(reader.data.get("kv_heads"), Mapping):
        count = reader.integer("kv_heads", most=10**5) or 1
        if heads and heads % count:
            reader.complain("kv_heads", f"{count} does not divide {heads} heads")
        return (count,) * (layers or 1)
    groups = reader.section("kv_heads")
    found: list[int] = []
    for name in groups.data:
        count = groups.integer(name, most=10_000) or 0
        if not re.fullmatch(r"0|[1-9]\d{0,3}", name) or (heads and int(name) and heads % int(name)):
            groups.complain(name, "is not a number of KV heads", "write {8: 44, 0: 26}, each a divisor of heads")
            continue
        found += [int(name)] * count
    if layers and len(found) != layers:
        reader.complain("kv_heads", f"counts {len(found)} layers, but layers is {layers}")
    return tuple(sorted(found, reverse=True))


def _prompting(reader: Reader, max_tokens: int) -> Prompting:
    return Prompting(
        template=reader.text("template", pattern=r"[^\x00]*\{prompt\}[^\x00]*", like="text with {prompt} in it"),
        system=reader.block("system", ""),
        stop=reader.texts("stop", pattern=r"[^\x00]+", like="strings"),
        probe=reader.text("probe", "What is the capital of France?", pattern=r"[^\x00-\x1f\x7f]*\S[^\x00-\x1f\x7f]*"),
        add_bos=reader.flag("add_bos", False),
        turn=reader.text("turn", "", pattern=r"[^\x00]*\{prompt\}[^\x00]*", like="text with {prompt} in it"),
        max_tokens=max_tokens,
    )


def _checkpoint(kind: str, reader: Reader) -> Checkpoint:
    return Checkpoint(
        kind=kind,
        precision=reader.choice("precision", PRECISIONS),
        size_gb=reader.number("size_gb"),
        source=reader.text("source", ""),
        engines=reader.texts("engines"),
        model_type=reader.text("model_type", ""),
    )
