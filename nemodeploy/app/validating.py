"""Whether a file is right, by itself: what `plan` would say of it, with nothing else in the way."""

from __future__ import annotations

from nemodeploy.adapters import resources
from nemodeploy.app import profiles
from nemodeploy.app.wanted import known_model
from nemodeploy.assembly import plugins
from nemodeploy.core import decode, layering, planning
from nemodeploy.core.defaults import DEFAULTS
from nemodeploy.core.documents import Document
from nemodeploy.core.spec import Draft, Spec
from nemodeploy.engines import ENGINES
from nemodeploy.errors import BadInput

# What the file's own kind leaves to the other two.
_A_SITE = Document({"ssh": {"host": "login"}})
_A_TARGET = Document({"gpu": {"type": "h100", "memory_gib": 80.0}, "nodes": 1, "gpus_per_node": 1})
_A_MODEL = "tiny"


def validate(path: str, kind: str | None = None) -> str:
    """Check one file; returns its kind. Raises BadInput with everything wrong in it."""
    path = path if "/" in path else f"./{path}"
    document = resources.read(path)
    kind = kind or kind_of(document)
    if kind == "model":
        model = known_model(path)
        _settle(model.name, Document({}, source=path), document.section("defaults"), model_path=path)
    elif kind == "cluster":
        whole = layering.merge((_A_TARGET, document.without("description")))
        for kind_of_gpu in ("", *document.section("gpus").data):
            for_gpu = decode.defaults_for_gpu(document, kind_of_gpu)
            _settle(path, layering.merge((whole, for_gpu)), Document({}), model_path=_A_MODEL)
    else:
        decided(path)
    return kind


def decided(path: str) -> Spec:
    """What a profile, by name or path, comes to on a site that has everything. Raises BadInput."""
    profile = profiles.load(path)
    for origin, key in decode.only_in_cluster_files(profile):
        raise BadInput(f"{origin.exact}: {key} belongs in the cluster file")
    name = profile.data.get("model")
    if not isinstance(name, str):
        raise BadInput(f"{path}: model: is missing", hint=f"model: {_A_MODEL}")
    defaults = resources.find("models", name).section("defaults")
    draft = _settle(path, layering.merge((_A_SITE, profile)), defaults, model_path=name)
    return planning.decide(draft, ENGINES[draft.engine], profiles.shipped_hardware())


def kind_of(document: Document) -> str:
    """A cluster says how to reach it, a model how large it is; everything else is a profile."""
    if {"ssh", *decode.ONLY_IN_CLUSTER_FILES} & set(document.data):
        return "cluster"
    return "model" if {"parameters_b", "layers", "prompt"} & set(document.data) else "profile"


def _settle(name: str, document: Document, defaults: Document, *, model_path: str) -> Draft:
    """The document's own keys, checked over harmless settings for everything else."""
    model = known_model(model_path)
    own = document if "ssh" in document.data else layering.merge((_A_SITE, document))
    whole = own if "gpus_per_node" in own.data else layering.merge((_A_TARGET, own))
    engine = Document({"engine": model.engines[0]}) if model.engines else Document({})
    return decode.decode_settings(
        layering.merge((DEFAULTS, engine, defaults, whole)),
        name="x",
        profile=name,
        model=model,
        cluster="x",
        plugins=plugins(),
    )
