"""What serves in the sandbox: stand-ins, or the engines' own software as far as their packs are installed."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from nemodeploy.adapters.resources import names
from nemodeploy.engines import ENGINES
from nemodeploy.sandbox.configuration import Software
from nemodeploy.sandbox.packs import PROGRAMS, Packs
from nemodeploy.sandbox.programs import CHECKPOINTS, GGUF, ITSELF, words

STAND_IN = "stand-in: a tiny model on the CPU takes the place of the model's own weights and server program"
TINY = str(PROGRAMS / GGUF)


def stand_ins() -> Software:
    """Nothing but what the sandbox itself needs."""
    return Software(
        notice=STAND_IN,
        stand_in=True,
        itself=ITSELF,
        programs={name: words(sys.executable, str(PROGRAMS), name) for name in ENGINES},
        checkpoints=dict.fromkeys(names("models"), TINY),
    )


def real(packs: Packs) -> Software:
    """The installed engines' own servers with tiny checkpoints of the cards' architectures; stand-ins for the rest."""
    here, others = packs.programs(), stand_ins()
    missing = [name for name in ENGINES if name not in here]
    rest = f"; {', '.join(missing)}: stand-ins" if missing else ""
    return Software(
        notice=f"the servers' own software on the CPU, with tiny weights ({', '.join(here)}){rest}",
        stand_in=True,
        itself=ITSELF,
        programs={**others.programs, **here},
        checkpoints={model: _checkpoint(packs, model) for model in others.checkpoints},
    )


def _checkpoint(packs: Packs, model: str) -> str | Mapping[str, str]:
    if model not in CHECKPOINTS or not packs.have_checkpoints():
        return TINY
    path = packs.checkpoint(model)
    return {"gguf": TINY, "hf": path} if model == "tiny" else path
