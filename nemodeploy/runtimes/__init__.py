"""Pure: one module a container runtime, one line here."""

from collections.abc import Mapping

from nemodeploy.runtimes.apptainer import Apptainer
from nemodeploy.runtimes.base import Runtime
from nemodeploy.runtimes.docker import Docker
from nemodeploy.runtimes.none import NoRuntime
from nemodeploy.runtimes.podman import Podman
from nemodeploy.runtimes.pyxis import Pyxis

# In the order in which a site that has several is best served.
RUNTIMES: Mapping[str, Runtime] = {
    "pyxis": Pyxis(),
    "apptainer": Apptainer(),
    "podman": Podman(),
    "docker": Docker(),
    "none": NoRuntime(),
}
