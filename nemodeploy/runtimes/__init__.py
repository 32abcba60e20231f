"""Pure: one module a container runtime, one line here."""

from collections.abc import Mapping

from nemodeploy.runtimes.apptainer import Apptainer
from nemodeploy.runtimes.base import Runtime
from nemodeploy.runtimes.docker import Docker
from nemodeploy.runtimes.none import NoRuntime
from nemodeploy.runtimes.podman import Podman
from nemodeploy.runtimes.pyxis import Pyxis

RUNTIMES: Mapping[str, Runtime] = {
    "apptainer": Apptainer(),
    "docker": Docker(),
    "none": NoRuntime(),
    "podman": Podman(),
    "pyxis": Pyxis(),
}
