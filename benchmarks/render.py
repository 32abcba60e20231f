"""Plans and renders every deployment that the shipped files allow, and compares one with a start of Python.

Goal: a bundle (plan and all its files) costs less than one start of `python -c pass`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import Bench, arguments

from tests.combinations import SITES, every


def seconds_of(words: list[str]) -> float:
    """Wall time of one process."""
    begun = time.perf_counter()
    subprocess.run(words, check=True)
    return time.perf_counter() - begun


def main() -> int:
    """Alternate: all combinations of one site, then three starts of Python."""
    options = arguments(__doc__ or "")
    sites = SITES[:2] if options.quick else SITES
    count, total = 0, 0.0
    starts: list[float] = []
    with tempfile.TemporaryDirectory() as place:
        next(every(Path(place), SITES[:1]))  # files and templates are read once
        for site in sites:
            begun = time.perf_counter()
            count += sum(1 for _ in every(Path(place), (site,)))
            total += time.perf_counter() - begun
            starts += [seconds_of([sys.executable, "-c", "pass"]) for _ in range(3)]
    each, start = total / count, median(starts)
    report = Bench("render", quick=options.quick, counts={"sites": len(sites), "bundles": count, "starts": len(starts)})
    report.figure("total_s", round(total, 2), "seconds for all, the combinations that are refused included")
    report.figure("bundle_ms", round(each * 1000, 2), "milliseconds a bundle")
    report.figure("python_ms", round(start * 1000, 2), "milliseconds for python -c pass, median")
    report.figure("ratio", round(each / start, 2), "a bundle, in starts of Python")
    report.goal("a bundle costs less than one start of python -c pass", each < start)
    return report.print(as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
