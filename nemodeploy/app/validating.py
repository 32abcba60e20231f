"""Whether a file is right, by itself: what `plan` would say of it, with nothing else in the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from nemodeploy.adapters import resources
from nemodeploy.app import profiles
from nemodeploy.app.wanted import known_model, refuse_keys_of_clusters
from nemodeploy.assembly import plugins
from nemodeploy.core import decode, layering, planning, settings
from nemodeploy.core.defaults import DEFAULTS
from nemodeploy.core.documents import Document
from nemodeploy.core.spec import Draft, Model, Spec
from nemodeploy.engines import ENGINES
from nemodeploy.errors import BadInput

# What the file's own kind leaves to the other two.
_A_SITE = Document({"ssh": {"host": "login"}})
_A_TARGET = Document({"gpu": {"type": "h100", "memory_gib": 80.0}, "nodes": 1, "gpus_per_node": 1})
_A_MODEL = "tiny"


def validate(path: str, kind: str | None = None, beside: Iterable[str] = ()) -> str:
    """Check one file; returns its kind. Raises BadInput with everything wrong in it.

    `beside`: the other files of the command; a cluster file may name the models among them.
    """
    path = path if "/" in path else f"./{path}"
    document = resources.read(path)
    kind = kind or kind_of(document)
    if kind == "model":
        _model(path, document)
    elif kind == "cluster":
        known, model = _kinds_of_models(beside), known_model(_A_MODEL)
        engine = Document({"engine": model.engines[0]})
        whole = layering.merge((_A_TARGET, document.without("description")))
        for kind_of_gpu in ("", *document.section("gpus").data):
            for_gpu = decode.defaults_for_gpu(document, kind_of_gpu)
            merged = layering.merge((whole, for_gpu))
            _settle(path, merged, engine, model=model, models=known)
    else:
        decided(path)
    return kind


def _model(path: str, document: Document) -> None:
    """Its facts, and the settings that it brings along; what is wrong with either is told together."""
    problems: list[BadInput] = []
    defaults = document.section("defaults")
    model = replace(known_model(_A_MODEL), context=10**9)
    try:
        model = known_model(path)
    except BadInput as error:
        problems.append(error)
    try:
        draft = _settle(model.name, Document({}, source=path), defaults, model=model)
        if not problems and draft.engine not in model.engines:
            where = defaults.origin(("engine",)).exact
            raise BadInput(
                f"{where}  defaults.engine: {draft.engine} reads no checkpoint of {model.name}",
                hint=f"engine: {model.engines[0]}",
            )
    except BadInput as error:
        problems.append(error)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        lines = [line for error in problems for line in error.detail or (error.message,)]
        raise BadInput(f"model {path} has {len(lines)} problems", detail=tuple(lines))


def _kinds_of_models(beside: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The checkpoints of every model that there is; files that are wrong are told of by themselves."""
    found: dict[str, tuple[str, ...]] = {}
    for name in (*resources.names("models"), *(one if "/" in one else f"./{one}" for one in beside)):
        try:
            if resources.is_path(name) and kind_of(resources.read(name)) != "model":
                continue
            model = known_model(name)
        except BadInput:
            continue
        found[model.name] = tuple(one.kind for one in model.checkpoints)
    return found


def decided(path: str) -> Spec:
    """What a profile, by name or path, comes to on a site that has everything. Raises BadInput."""
    profile = profiles.load(path)
    refuse_keys_of_clusters(profile)
    name = profile.data.get("model")
    if not isinstance(name, str):
        raise BadInput(f"{path}: model: is missing", hint=f"model: {_A_MODEL}")
    defaults = resources.find("models", name).section("defaults")
    found: list[Spec] = []

    def decide(draft: Draft) -> None:
        found.append(planning.decide(draft, ENGINES[draft.engine], profiles.shipped_hardware()))

    _settle(path, layering.merge((_A_SITE, profile)), defaults, model=known_model(name), then=decide)
    return found[-1]


def kind_of(document: Document) -> str:
    """A cluster says how to reach it, a model how large it is; everything else is a profile."""
    if {"ssh", *decode.ONLY_IN_CLUSTER_FILES} & set(document.data):
        return "cluster"
    return "model" if {"parameters_b", "layers", "prompt"} & set(document.data) else "profile"


def _settle(
    name: str,
    document: Document,
    defaults: Document,
    *,
    model: Model,
    models: Mapping[str, Sequence[str]] | None = None,
    then: Callable[[Draft], object] = lambda _: None,
) -> Draft:
    """The document's own keys, checked over harmless settings for everything else."""
    own = document if "ssh" in document.data else layering.merge((_A_SITE, document))
    whole = own if "gpus_per_node" in own.data else layering.merge((_A_TARGET, own))
    return settings.decode_settings(
        layering.merge((DEFAULTS, defaults, whole)),
        name="x",
        profile=name,
        model=model,
        cluster="x",
        plugins=replace(plugins(), models=models),
        then=then,
    )
