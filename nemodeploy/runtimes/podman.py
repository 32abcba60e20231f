"""Podman: `podman run` in front of every rank, without a daemon and without root. Source: podman-run(1), CDI."""

from __future__ import annotations

from nemodeploy.runtimes.docker import Docker


class Podman(Docker):
    """As docker, save for users and GPUs."""

    name = "podman"
    template = "runtimes/podman.sh.j2"
