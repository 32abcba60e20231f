"""A deployment that a newer version wrote: it is told at once, and only ended."""

from __future__ import annotations

from nemodeploy.core.observation import RunDirectory
from nemodeploy.core.spec import Cluster
from nemodeploy.errors import PreflightFailed


def illegible(directory: RunDirectory, cluster: Cluster) -> PreflightFailed:
    """It may be up, and no look of this version ever tells. PreflightFailed, not OutcomeUnknown: nothing was submitted,
    and another try does not help."""
    name = directory.token.name
    newer = "install that version to use it; " if directory.from_newer_version else ""
    return PreflightFailed(
        f"this version of nemodeploy cannot use {name} on {cluster.name}: {directory.illegible}",
        hint=f"{newer}{cluster.command('down', name)}   takes it down",
        token=str(directory.token),
    )
