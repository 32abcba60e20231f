"""Real container runtimes for the sandbox, by their names in cluster files."""

from collections.abc import Mapping

from nemodeploy.sandbox.runtimes.apptainer import Apptainer
from nemodeploy.sandbox.runtimes.base import RealRuntime
from nemodeploy.sandbox.runtimes.docker import Docker
from nemodeploy.sandbox.runtimes.podman import Podman
from nemodeploy.sandbox.runtimes.pyxis import Pyxis

REAL: Mapping[str, RealRuntime] = {runtime.name: runtime for runtime in (Apptainer(), Podman(), Docker(), Pyxis())}
