"""Profiles as files: with what they extend, and what hardware the shipped ones stand for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from nemodeploy.adapters import resources
from nemodeploy.core import layering
from nemodeploy.core.decode import decode_hardware
from nemodeploy.core.documents import Document
from nemodeploy.core.spec import Hardware
from nemodeploy.errors import BadInput

LONGEST_CHAIN = 20


def load(name: str) -> Document:
    """A profile over the one that it `extends:`, and so on. Raises BadInput for a circle, naming it."""
    chain: list[str] = []
    layers: list[Document] = []
    wanted: str | None = name
    below = ""
    while wanted is not None:
        document = resources.find("profiles", wanted, below)
        if document.source in chain or len(chain) > LONGEST_CHAIN:
            circle = " -> ".join((*chain[-3:], document.source))
            raise BadInput(f"profiles that extend each other: {circle}", hint="take one extends: out")
        chain.append(document.source)
        layers.insert(0, _with_its_model(document.without("extends")))
        above = document.data.get("extends")
        if above is not None and not isinstance(above, str):
            where = document.origin(("extends",)).exact
            raise BadInput(f"{where}  extends: must be the name or path of one profile, not {above!r}")
        wanted, below = above and _beside(above, document), document.source
    if len(layers) == 1:
        return layers[0]
    return layering.merge(_for_the_last_model(layers))


def _for_the_last_model(layers: list[Document]) -> Iterator[Document]:
    """What a lower profile decided for its own model does not count for another one."""
    model = next((layer.data["model"] for layer in reversed(layers) if "model" in layer.data), "")
    own = ""
    for layer in layers:
        own = layer.data.get("model", own)
        yield layer if own in ("", model) else layering.profile_for(layer, str(model))


def _with_its_model(document: Document) -> Document:
    model = document.data.get("model")
    return document.with_value("model", _beside(model, document)) if isinstance(model, str) else document


def _beside(name: str, document: Document) -> str:
    """A relative path counts from the file that says it."""
    if resources.is_path(name) and not Path(name).is_absolute():
        return os.path.normpath(Path(document.source).absolute().parent / name)
    return name


def shipped_hardware() -> Iterator[Hardware]:
    """The shipped profiles' hardware, smallest first, read only when somebody asks."""
    found = [decode_hardware(name, document) for name, document in resources.shipped_documents("profiles")]
    yield from sorted(
        (hardware for hardware in found if hardware.gpus_per_node),
        key=lambda one: (one.nodes * one.gpus_per_node * one.gpu.memory_gib, one.name),
    )
