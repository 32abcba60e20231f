"""Pure: one module an engine, one line here."""

from collections.abc import Mapping

from nemodeploy.engines.base import Engine
from nemodeploy.engines.nemo_eval import NemoEval

ENGINES: Mapping[str, Engine] = {"nemo-eval": NemoEval()}
