"""Real container runtimes for the sandbox, by their names in cluster files."""

from collections.abc import Mapping

from nemodeploy.sandbox.runtimes.apptainer import Apptainer

REAL: Mapping[str, Apptainer] = {"apptainer": Apptainer()}
