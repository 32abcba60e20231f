"""Pure: one module a container runtime, one line here."""

from collections.abc import Mapping

from nemodeploy.runtimes.base import Runtime
from nemodeploy.runtimes.none import NoRuntime
from nemodeploy.runtimes.pyxis import Pyxis

RUNTIMES: Mapping[str, Runtime] = {"none": NoRuntime(), "pyxis": Pyxis()}
