"""Whether the checkpoints that a cluster file names are whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nemodeploy.adapters import resources
from nemodeploy.app.doctor import checkpoint
from nemodeploy.app.site import Site
from nemodeploy.core import checkpoint_files
from nemodeploy.core.checks import Check, not_applicable
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
        return {kind or forms[0]: path}
    entry = (resources.find("clusters", cluster).data.get("checkpoints") or {}).get(model.name)
    found = dict(entry) if isinstance(entry, Mapping) else {kind or forms[0]: entry} if entry else {}
    if kind:
        found = {one: where for one, where in found.items() if one == kind}
    if not found:
        raise BadInput(
            f"cluster {cluster} names no {kind or 'checkpoint'} of {model.name}",
            hint=f"checkpoints: {{{model.name}: {{{kind or forms[0]}: /path}}}} in its cluster file, or --path",
        )
    return {one: str(where) for one, where in found.items()}


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
