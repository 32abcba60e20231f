"""From the names a user typed to a plan and a bundle: which files, in which order, over which site."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nemodeploy.adapters import resources, yaml_files
from nemodeploy.app import profiles
from nemodeploy.assembly import assemble, assemble_probe, plugins
from nemodeploy.core import decode, layering, settings
from nemodeploy.core.cluster_files import decode_cluster
from nemodeploy.core.defaults import DEFAULTS
from nemodeploy.core.documents import Document
from nemodeploy.core.model_files import decode_model
from nemodeploy.core.plan import Bundle, Plan
from nemodeploy.core.reading import near
from nemodeploy.core.spec import Cluster, Draft, Model
from nemodeploy.engines import ENGINES
from nemodeploy.errors import BadInput
from nemodeploy.values import Secret

SANDBOX = "sandbox"
EXAMPLE = "example"
PREFIX = "NEMODEPLOY_"


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What was typed. `settings` are dotted keys with values and the words they came in."""

    profile: str
    name: str | None
    cluster: str | None
    settings: Sequence[tuple[str, object, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """The plan, its files, and the site; `note` says what a user should know about the choice of site, `source` where
    the checkpoint comes from."""

    plan: Plan
    bundle: Bundle
    cluster: Cluster
    draft: Draft
    note: str = ""
    source: str = ""

    def probe(self, within_s: int) -> Mapping[str, str]:
        """The files of a short job that looks at the nodes it would get, and is dropped when it is not over within so
        many seconds; none where there is no scheduler."""
        return assemble_probe(self.draft, resources.templates(), within_s)


def resolve(wish: Wish, environment: Mapping[str, str], *, needs_site: bool) -> Wanted:
    """Decide everything. Without a configured cluster and without need for one, the shipped example stands in."""
    typed = layering.from_settings(wish.settings, resources.names("models"))
    profile_document = profiles.load(wish.profile)
    model_name = typed.data.get("model") or profile_document.data.get("model")
    if not isinstance(model_name, str):
        raise BadInput(f"profile {wish.profile} names no model", hint="--model NAME")
    model_document = resources.find("models", model_name)
    model = known_model(model_name)
    if "extends" in typed.data:
        raise BadInput(f"{typed.origin(('extends',)).exact}: extends belongs in a profile file")
    refuse_keys_of_clusters(profile_document, model_document.section("defaults"), typed)
    cluster_name, cluster_document, note = _site(wish.cluster, needs_site=needs_site)
    for key in ("model", "extends"):
        if key in cluster_document.data:
            raise BadInput(f"{cluster_document.origin((key,)).exact}: {key} belongs in the profile file")
    below = (
        DEFAULTS,
        model_document.section("defaults"),
        layering.profile_for(profile_document, model_name),
        cluster_document.without("description"),
    )
    above = (from_environment(environment), typed)
    for_gpu = decode.defaults_for_gpu(cluster_document, decode.gpu_type(layering.merge((*below, *above))))
    merged = layering.merge((*below, for_gpu, *above))
    made: list[tuple[Plan, Bundle]] = []
    draft = settings.decode_settings(
        merged,
        name=wish.name or model.name.replace(".", "-"),
        profile=_stem(wish.profile),
        model=model,
        cluster=cluster_name,
        plugins=plugins(),
        then=lambda draft: made.append(assemble(draft, resources.templates(), profiles.shipped_hardware())),
    )
    plan, bundle = made[-1]
    source = next((one.source for one in model.checkpoints if one.kind == plan.checkpoint_kind), "")
    here = replace(draft.cluster, name=cluster_name, path=_path(wish.cluster or ""))
    return Wanted(plan=plan, bundle=bundle, cluster=here, draft=draft, note=note, source=source)


def refuse_keys_of_clusters(*documents: Document) -> None:
    """Raises BadInput with every key that only a cluster file may hold."""
    found = [found for document in documents for found in decode.only_in_cluster_files(document)]
    lines = tuple(f"{origin.exact}: {key} belongs in the cluster file" for origin, key in found)
    if lines:
        raise BadInput(lines[0], detail=lines[1:])


def known_model(name: str) -> Model:
    """The facts of a model, by name or path. Raises BadInput when its file is wrong or names an unknown engine."""
    document = resources.find("models", name)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", _stem(name)):
        raise BadInput(f"{_stem(name)!r} is no name for a model", hint="letters, digits, . _ and -")
    model = decode_model(_stem(name), document)
    for engine in (*model.engines, *model.cannot):
        if engine not in ENGINES:
            where = document.origin(("checkpoints",)).exact
            raise BadInput(
                f"{where}: model {model.name} names an unknown engine {engine!r}", hint=near(engine, ENGINES)
            )
    if not model.engines:
        raise BadInput(
            f"model {model.name}: no checkpoint of it names an engine", hint="checkpoints: {…: {engines: […]}}"
        )
    return model


def cluster(name: str) -> Cluster:
    """A configured cluster's way in."""
    return replace(decode_cluster(_stem(name), resources.find("clusters", name)), path=_path(name))


def _path(name: str) -> str:
    return str(Path(name).absolute()) if resources.is_path(name) else ""


def cluster_names(chosen: str | None) -> tuple[str, ...]:
    """The clusters a question goes to: the chosen one, or all. Raises BadInput when there is none."""
    names = (chosen,) if chosen else resources.names("clusters")
    if not names:
        raise _no_cluster()
    return names


def from_environment(environment: Mapping[str, str]) -> Document:
    """The layer of NEMODEPLOY_ variables; `__` stands for the dot."""
    known = {PREFIX + key.upper().replace(".", "__"): key for key in decode.FROM_ENVIRONMENT}
    settings: list[tuple[str, Any, str]] = [
        (known[name], yaml_files.parse_scalar(value, name), f"environment {name}")
        for name, value in sorted(environment.items())
        if name in known and value
    ]
    return layering.from_settings(settings)


def secrets(names: Sequence[str], environment: Mapping[str, str]) -> Mapping[str, Secret]:
    """The values of a cluster's `secrets:`, from our own environment, or the files that NAME_FILE names there.

    Raises BadInput for those that are missing, and for files that cannot be read.
    """
    found = {name: secret(name, environment) for name in names}
    missing = [name for name, value in found.items() if value is None]
    if missing:
        raise BadInput(
            f"the cluster file lists secrets that are not set here: {', '.join(missing)}",
            hint=f"export {missing[0]}=…, or {missing[0]}_FILE=…, or take it out of secrets:",
        )
    return {name: value for name, value in found.items() if value is not None}


def secret(name: str, environment: Mapping[str, str]) -> Secret | None:
    """One of them; None: it is not set. A file's last line break is none of it."""
    if environment.get(name):
        return Secret(environment[name])
    path = environment.get(f"{name}_FILE", "")
    if not path:
        return None
    try:
        text = resources.read_text(path).removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{name}_FILE={path} cannot be read: {error}", hint="the path of a file that holds it") from None
    return Secret(text) if text else None


def _site(chosen: str | None, *, needs_site: bool) -> tuple[str, Document, str]:
    if chosen:
        return _stem(chosen), resources.find("clusters", chosen), ""
    names = resources.names("clusters")
    sites = [name for name in names if name != SANDBOX] or list(names)
    if len(sites) == 1:
        return sites[0], resources.find("clusters", sites[0]), ""
    if sites:
        raise BadInput(f"which cluster? there is {', '.join(names)}", hint=f"--cluster {sites[0]}")
    if needs_site:
        raise _no_cluster()
    note = "no cluster is configured; using the shipped example (configs/clusters/example.yaml)"
    return EXAMPLE, resources.example_cluster(), note


def _no_cluster() -> BadInput:
    place = resources.config_directory() / "clusters"
    return BadInput(
        "no cluster is configured",
        hint=f"nemodeploy sandbox up   (a real Slurm on this machine), or write {place}/NAME.yaml",
    )


def _stem(name: str) -> str:
    return name.rpartition("/")[2].removesuffix(".yaml").removesuffix(".yml")
