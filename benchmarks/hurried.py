"""nemodeploy with every clock of its jobs divided by ten, for benchmarks that would otherwise take minutes.

python benchmarks/hurried.py up --profile cpu
"""

from __future__ import annotations

from nemodeploy.core import tempo

DIVISOR = 10


def hurry() -> None:
    """From now on, in this process."""
    tempo.TEMPO = tempo.Tempo().divided(DIVISOR)


if __name__ == "__main__":
    from nemodeploy.cli.main import main

    hurry()
    main()
