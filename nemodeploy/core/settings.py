"""The merged settings of a deployment, with every mistake that can be known told at once."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

from nemodeploy.core.decode import Plugins, read_settings
from nemodeploy.core.defaults import DEFAULTS
from nemodeploy.core.documents import Document
from nemodeploy.core.layering import merge
from nemodeploy.core.reading import BadInputs, Problem, Reader, refusal
from nemodeploy.core.spec import Draft, Model
from nemodeploy.errors import BadInput
from nemodeploy.values import NAME

# A mistake in one of these leaves open what would be planned.
_DECISIVE = (
    "engine",
    "precision",
    "layout",
    "nodes",
    "most_nodes",
    "gpus_per_node",
    "gpu",
    "host",
    "fast_link",
    "runtime",
    "scheduler",
    "transport",
)


def decode_settings(
    document: Document,
    *,
    name: str,
    profile: str,
    model: Model,
    cluster: str,
    plugins: Plugins,
    then: Callable[[Draft], object] = lambda _: None,
) -> Draft:
    """The merged settings of a deployment. Raises BadInput with every problem at once.

    `then` looks further at what was read and raises BadInput itself. Its problems are told together with those of
    reading, as far as they do not rest on these.
    """
    if not NAME.fullmatch(name):
        raise BadInput(
            f"deployment name {name!r}: use 1 to 40 of a-z, 0-9 and -, not beginning or ending with -",
            hint="--name NAME",
        )
    what = f"profile {profile} on cluster {cluster}"

    def read(some: Document) -> Draft:
        reader = Reader.of(some)
        draft = read_settings(reader, name=name, profile=profile, model=model, cluster=cluster, plugins=plugins)
        reader.finish(what)
        return draft

    try:
        draft = read(document)
    except BadInputs as error:
        raise refusal(what, (*error.problems, *_later(document, error.problems, read, then))) from None
    then(draft)
    return draft


def _later(
    document: Document, problems: Sequence[Problem], read: Callable[[Document], Draft], then: Callable[[Draft], object]
) -> tuple[Problem, ...]:
    """What would be refused if the problems of reading were mended. Nothing where one of them decides the plan."""
    wrong = {problem.path[0] for problem in problems}
    if any(difflib.get_close_matches(key, _DECISIVE, n=1, cutoff=0.65) for key in wrong):
        return ()
    rest = document.pruned({problem.path for problem in problems})
    harmless = Document({"ssh": {"host": "login"}}) if "ssh" in wrong else Document({})
    try:
        then(read(merge((DEFAULTS, harmless, rest))))
    except BadInputs as error:
        return tuple(problem for problem in error.problems if problem.path[0] not in wrong)
    except BadInput:  # it does not fit, perhaps because of what is wrong
        return ()
    return ()
