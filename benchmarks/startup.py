"""How quick the command starts, how big an installation is, and how quick the sandbox is up.

Compared with `python -c pass` of the same interpreter, in turn, in one run. The installation is a fresh virtual
environment without extras; its pip and setuptools are not counted.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
import venv
from pathlib import Path

from common import Bench, Sandboxed, arguments

ROOT = Path(__file__).parents[1]
NOT_COUNTED = ("pip", "setuptools", "_distutils_hack", "distutils-precedence", "pkg_resources")


def seconds(bench: Sandboxed, *words: str) -> float:
    """One run of a command."""
    begun = time.monotonic()
    subprocess.run(words, env=bench.environment, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    return time.monotonic() - begun


def installed_mb(directory: Path) -> float:
    """Size of a fresh environment with nemodeploy and its dependencies, in MB of 10^6 bytes."""
    venv.create(directory, with_pip=True)
    python = str(directory / "bin/python")
    quiet = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(ROOT))
    subprocess.run([python, *quiet], check=True, capture_output=True)
    (packages,) = directory.glob("lib/python*/site-packages")
    entries = [entry for entry in packages.iterdir() if not entry.name.startswith(NOT_COUNTED)]
    files = [file for entry in entries for file in ([entry] if entry.is_file() else entry.rglob("*"))]
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6


def sandbox_seconds(bench: Sandboxed, *options: str) -> float:
    """From nothing to all nodes idle, as the command measures it from outside."""
    bench.nemodeploy("sandbox", "down")
    begun = time.monotonic()
    bench.nemodeploy("sandbox", "up", *options)
    return time.monotonic() - begun


def main() -> int:
    """Run everything and say whether the goals are met."""
    options = arguments(__doc__ or "")
    rounds = 7 if options.quick else 25
    commands = {
        "python": (sys.executable, "-c", "pass"),
        "help": (sys.executable, "-m", "nemodeploy", "--help"),
        "plan": (sys.executable, "-m", "nemodeploy", "plan", "--profile", "h100x16"),
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    with Sandboxed() as bench:
        for _ in range(rounds + 1):
            for name, words in commands.items():
                times[name].append(seconds(bench, *words))
        ups = [sandbox_seconds(bench) for _ in range(3 if options.quick else 10)]
        first, *accounted = [sandbox_seconds(bench, "--accounting") for _ in range(4 if options.quick else 11)]
        size = installed_mb(bench.home / "fresh")
    median = {name: statistics.median(values[1:]) for name, values in times.items()}
    report = Bench("startup", quick=options.quick, counts={"rounds": rounds, "sandbox_ups": len(ups)})
    report.figure("python_s", round(median["python"], 4), "python -c pass, median seconds")
    report.figure("help_ratio", round(median["help"] / median["python"], 2), "nemodeploy --help, times that")
    report.figure("plan_ratio", round(median["plan"] / median["python"], 2), "nemodeploy plan, times that")
    report.figure("installed_mb", round(size, 1), "MB installed without extras")
    report.figure("sandbox_up_s", round(statistics.median(ups), 2), "sandbox from nothing to all idle, median seconds")
    report.figure("accounting_first_s", round(first, 2), "the first with accounting, which prepares its database")
    report.figure(
        "accounting_up_s", round(statistics.median(accounted), 2), "later ones with accounting, median seconds"
    )
    report.goal("--help at most 10 times python -c pass", median["help"] <= 10 * median["python"])
    report.goal("plan at most 25 times", median["plan"] <= 25 * median["python"])
    report.goal("at most 55 MB", size <= 55)
    report.goal("sandbox in about 1 s (at most 1.5)", statistics.median(ups) <= 1.5)
    report.goal("at most 3 s with accounting and a prepared database", statistics.median(accounted) <= 3)
    return report.print(as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
