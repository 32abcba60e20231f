"""Finding templates and configuration: in the package when installed, at the top of a checkout otherwise, and the
user's own below the XDG directories."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import platformdirs

from nemodeploy.adapters import yaml_files
from nemodeploy.core.documents import Document
from nemodeploy.core.listing import natural
from nemodeploy.core.reading import near
from nemodeploy.errors import BadInput

_PACKAGE = Path(__file__).parents[1]


def shipped(kind: str) -> Path:
    """`templates` or `configs` as shipped."""
    installed = _PACKAGE / "_shipped" / kind
    return installed if installed.is_dir() else _PACKAGE.parent / kind


def config_directory() -> Path:
    """The user's own profiles, models and clusters."""
    return Path(platformdirs.user_config_dir("nemodeploy"))


def state_directory() -> Path:
    """The client's journal; nothing of it is needed to find a deployment again."""
    return Path(platformdirs.user_state_dir("nemodeploy"))


def sandbox_directory() -> Path:
    """Where the sandbox lives."""
    return _data_directory("NEMODEPLOY_SANDBOX_DIR", "sandbox")


def engines_directory() -> Path:
    """Where the sandbox's engine packs live."""
    return _data_directory("NEMODEPLOY_ENGINES_DIR", "engines")


def slurm_directory() -> Path:
    """Where Slurms that are not the machine's own are unpacked."""
    return _data_directory("NEMODEPLOY_SLURM_DIR", "slurm")


def _data_directory(variable: str, name: str) -> Path:
    chosen = os.environ.get(variable)
    return Path(chosen).absolute() if chosen else Path(platformdirs.user_data_dir("nemodeploy")) / name


@cache
def templates() -> Mapping[str, str]:
    """Every template's text by its name relative to `templates/`."""
    root = shipped("templates")
    return {str(path.relative_to(root)): path.read_text(encoding="utf-8") for path in sorted(root.rglob("*.j2"))}


def names(kind: str) -> tuple[str, ...]:
    """What there is of a kind: the user's own and the shipped; of clusters only the user's own."""
    return tuple(sorted(_files(kind), key=natural))


def read_text(path: str) -> str:
    """A small file of the user's, whole. Raises OSError or UnicodeDecodeError."""
    return Path(path).expanduser().read_text("utf-8")


def read(path: str) -> Document:
    """A file by its path. Raises BadInput, naming files beside it that are called nearly so."""
    file = Path(path)
    try:
        if not file.exists():
            beside = [other.name for other in file.parent.glob("*.y*ml")] if file.parent.is_dir() else []
            raise BadInput(f"there is no file {path}", hint=near(file.name, beside))
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read {path[:200]}: {getattr(error, 'strerror', None) or error}") from error
    return yaml_files.load(file)


def is_path(name: str) -> bool:
    """Whether a profile, model or cluster is meant by its path: with a `/`, or ending in `.yaml`."""
    return "/" in name or name.endswith((".yaml", ".yml"))


def find(kind: str, name: str, below: str = "") -> Document:
    """A profile, model or cluster by name or path.

    `below`: the source of one's own file that is laid over another; when it bears the same name, the shipped one is
    meant. Raises BadInput when there is none.
    """
    if is_path(name):
        return read(name)
    files = _files(kind)
    if name not in files:
        raise BadInput(f"unknown {kind[:-1]} {name!r} (neither shipped nor in {_own(kind)})", hint=near(name, files))
    path, shown = files[name]
    if below and shown == below and (shipped("configs") / kind / path.name).is_file():
        path, shown = shipped("configs") / kind / path.name, f"configs/{kind}/{path.name}"
    return yaml_files.load(path, shown)


def shipped_documents(kind: str) -> tuple[tuple[str, Document], ...]:
    """Every shipped file of a kind, by name."""
    paths = sorted((shipped("configs") / kind).glob("*.yaml"))
    return tuple((path.stem, yaml_files.load(path, f"configs/{kind}/{path.name}")) for path in paths)


def example_cluster() -> Document:
    """The shipped site that does not exist, for `plan` and `render` without a cluster."""
    return yaml_files.load(shipped("configs") / "clusters/example.yaml", "configs/clusters/example.yaml")


def _own(kind: str) -> Path:
    return config_directory() / kind


def _files(kind: str) -> dict[str, tuple[Path, str]]:
    found = {}
    if kind != "clusters":
        for path in sorted((shipped("configs") / kind).glob("*.yaml")):
            found[path.stem] = (path, f"configs/{kind}/{path.name}")
    try:
        own = sorted(_own(kind).iterdir()) if _own(kind).is_dir() else []
    except OSError as error:
        raise BadInput(f"cannot read {_own(kind)}: {error.strerror}") from error
    for path in own:
        if path.suffix == ".yaml":
            found[path.stem] = (path, str(path))
    return found
