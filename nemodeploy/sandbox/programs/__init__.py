"""Which stand-in takes the place of which engine's program."""

from collections.abc import Mapping

EVERY = "stand_in.py"
OWN: Mapping[str, str] = {"nemo-eval": "megatron_gpt_eval.py"}


def words(python: str, directory: str, engine: str) -> tuple[str, ...]:
    """The words that start an engine's stand-in."""
    if engine in OWN:
        return (python, f"{directory}/{OWN[engine]}")
    return (python, f"{directory}/{EVERY}", engine)
