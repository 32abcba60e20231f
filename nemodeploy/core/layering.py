"""Laying documents over each other: the later wins, mappings are merged, everything else is replaced."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from nemodeploy.core.documents import Document, Origin, Path

DECIDED_BY_MODEL = ("engine", "precision", "layout")
NODES = {"nodes": "most_nodes"}


def merge(layers: Iterable[Document]) -> Document:
    """One document from several, lowest first. Every value keeps the origin of the layer that set it."""
    data: dict[str, Any] = {}
    origins: dict[Path, Origin] = {}
    for layer in layers:
        _lay_over(data, layer.data, (), layer, origins)
    return Document(data, origins, "the merged settings")


def _lay_over(
    target: dict[str, Any], source: Mapping[str, Any], path: Path, layer: Document, origins: dict[Path, Origin]
) -> None:
    for key, value in source.items():
        here = (*path, key)
        if isinstance(value, Mapping):
            below = target.get(key)
            target[key] = dict(below) if isinstance(below, Mapping) else {}
            origins.setdefault(here, layer.origin(here))
            _lay_over(target[key], value, here, layer, origins)
            continue
        for stale in [known for known in origins if known[: len(here)] == here]:
            del origins[stale]
        target[key] = value
        origins[here] = layer.origin(here)
        if isinstance(value, list):
            origins.update({path: origin for path, origin in layer.origins.items() if path[: len(here)] == here})


def profile_for(profile: Document, model: str) -> Document:
    """A profile as it counts for a model: engine, precision and layout belong to its own model only.

    Another model may take fewer of its nodes.
    """
    return profile if profile.data.get("model") == model else profile.without(*DECIDED_BY_MODEL).renamed(NODES)


def from_settings(settings: Iterable[tuple[str, object, str]], names: Collection[str] = ()) -> Document:
    """A layer from dotted keys: `("layout.tensor_parallel", 4, "--set layout.tensor_parallel=4")`.

    `names` are words with dots of their own, such as models, which stay whole behind the first dot.
    """
    data: dict[str, Any] = {}
    origins: dict[Path, Origin] = {}
    for key, value, source in settings:
        path = _split(key, names)
        target = data
        for part in path[:-1]:
            below = target.setdefault(part, {})
            if not isinstance(below, dict):
                below = target[part] = {}
            target = below
        target[path[-1]] = value
        origins[path] = Origin(source)
    return Document(data, origins, "the command line")


def _split(key: str, names: Collection[str]) -> Path:
    first, _, rest = key.partition(".")
    whole = max((name for name in names if rest == name or rest.startswith(f"{name}.")), key=len, default="")
    if not whole:
        return tuple(key.split("."))
    below = rest[len(whole) + 1 :]
    return (first, whole, *(below.split(".") if below else ()))
