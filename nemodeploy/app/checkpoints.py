"""Whether the checkpoints that a cluster file names are whole."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from nemodeploy.adapters import resources
from nemodeploy.app.doctor import checkpoint
from nemodeploy.app.site import Site
from nemodeploy.core import checkpoint_files
from nemodeploy.core.checks import Check, not_applicable
from nemodeploy.core.cluster_files import LIKE_PATH, REMOTE_PATH
from nemodeploy.core.reading import near
from nemodeploy.core.spec import Checkpoint, Model
from nemodeploy.errors import BadInput


def named(cluster: str, model: Model, kind: str | None, path: str | None) -> Mapping[str, str]:
    """The paths to look at, by the form of what lies there: the one that is given, or those of the cluster file.

    Raises BadInput where there is none, or the model has no such form.
    """
    forms = [one.kind for one in model.checkpoints]
    if kind and kind not in forms:
        raise BadInput(f"{model.name} has no {kind} checkpoint", hint=f"--kind: {near(kind, forms)}")
    if path:
        return _checked({kind or forms[0]: path}, forms, "--path")
    section = resources.find("clusters", cluster).data.get("checkpoints") or {}
    if not isinstance(section, Mapping):
        raise BadInput(
            f"cluster {cluster}: checkpoints must be a mapping", hint=f"checkpoints: {{{model.name}: /path}}"
        )
    entry = section.get(model.name)
    found = dict(entry) if isinstance(entry, Mapping) else {kind or forms[0]: entry} if entry else {}
    _checked(found, forms, f"cluster {cluster}: checkpoints.{model.name}")
    if kind:
        found = {one: where for one, where in found.items() if one == kind}
    if not found:
        raise BadInput(
            f"cluster {cluster} names no {kind or 'checkpoint'} of {model.name}",
            hint=f"checkpoints: {{{model.name}: {{{kind or forms[0]}: /path}}}} in its cluster file, or --path",
        )
    return {one: str(where) for one, where in found.items()}


def _checked(paths: Mapping[str, object], forms: Sequence[str], where: str) -> Mapping[str, str]:
    found = {}
    for kind, path in paths.items():
        if kind not in forms:
            raise BadInput(f"{where}: there is no such checkpoint as {kind!r}", hint=near(str(kind), forms))
        if not isinstance(path, str) or not re.fullmatch(REMOTE_PATH, path) or not path.isprintable():
            raise BadInput(f"{where}: {path!r} is no path on the cluster", hint=LIKE_PATH)
        found[kind] = path
    return found


def check(site: Site, model: Model, paths: Mapping[str, str]) -> Iterator[tuple[str, Check]]:
    """Each form with what was found. Raises ClusterUnreachable or AuthenticationFailed."""
    answers = site.ask({kind: checkpoint_files.script(path) for kind, path in paths.items()}, within_s=150)
    for kind, path in paths.items():
        if site.cluster.stand_in:
            yield kind, not_applicable("checkpoint", f"{path} is a stand-in")
            continue
        form: Checkpoint | None = next((one for one in model.checkpoints if one.kind == kind), None)
        size, source = (form.size_gb, form.source) if form else (0.0, "")
        for one in checkpoint(path, kind, answers[kind], size_gb=size, source=source):
            yield kind, one
