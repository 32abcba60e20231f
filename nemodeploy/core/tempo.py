"""The tempo of a job: how often its supervisor looks at what, and how long it bears what it sees."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Tempo:
    """All in seconds.

    `look`: between two looks around, once it serves. `health`: until health.json is written again. `probe`: until the
    cheap question is asked again after a good answer, `probe_again` after a bad one. `ask`: until the next generation,
    `ask_again` after a bad answer or while it has to prove itself. `ask_within`: until a generation is given up.
    `late`: from when on one is, so that progress counts. `quiet`: without answer and progress, then it hangs. `beat`:
    between two heartbeats of a node. `silent`: without one, or without health.json (a network file system may show it a
    minute late), then it is silent. `index`: until the sizes of the logs are noted again.
    """

    look: float = 2.0
    health: float = 10.0
    probe: float = 10.0
    probe_again: float = 5.0
    ask: float = 60.0
    ask_again: float = 2.0
    ask_within: float = 600.0
    late: float = 30.0
    quiet: float = 90.0
    beat: float = 5.0
    silent: float = 90.0
    index: float = 60.0

    def divided(self, by: float) -> Tempo:
        """All of them faster: for those who measure, and for tests."""
        return Tempo(**{name: value / by for name, value in asdict(self).items()})

    @property
    def hundredths(self) -> dict[str, int]:
        """By name in hundredths of a second, as the supervisor counts."""
        return {name: round(value * 100) for name, value in asdict(self).items()}


TEMPO = Tempo()
