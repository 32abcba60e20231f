"""nemodeploy: from SSH access to a Slurm GPU cluster to a large NeMo model that has answered a prompt.

`deployment(profile=…)` is the whole of the Python interface; see nemodeploy/api.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nemodeploy.version import __version__

if TYPE_CHECKING:
    from nemodeploy.api import Server, deployment

__all__ = ["Server", "__version__", "deployment"]


def __getattr__(name: str) -> Any:
    """Import what is heavy when it is asked for."""
    if name not in ("Server", "deployment"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from nemodeploy import api

    return getattr(api, name)
