"""What `nemodeploy run -- true` costs over `up` and `down`, and over sbatch and scancel typed by hand.

In one run, alternately: (a) `nemodeploy run -- true`; (b) `nemodeploy up`, then `nemodeploy down`; (c) `ssh` with
submit.sh of the same rendered files, a loop of curl until the first generated text, scancel, and a loop until squeue is
empty. Goal: `run` at most 1.1 times `up` and `down`.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import time
from pathlib import Path

from common import Bench, Sandboxed, arguments
from up_overhead import NAME, SETTLE_S, by_hand

WISH = ("--profile", "h100x16", "--name", NAME)


def timed(bench: Sandboxed, *commands: tuple[str, ...]) -> float:
    """Seconds of some command lines, one after the other."""
    begun = time.monotonic()
    for words in commands:
        bench.nemodeploy(*words)
    return time.monotonic() - begun


def typed(bench: Sandboxed, bundle: Path, number: int) -> float:
    """By hand to the end, when the queue is empty again."""
    begun = time.monotonic()
    by_hand(bench, bundle, number)
    return time.monotonic() - begun


def main() -> int:
    """Three ways in turn, the same rest before each."""
    options = arguments(__doc__ or "")
    if not shutil.which("curl"):
        sys.exit("this benchmark needs curl: apt-get install curl")
    turns = 3 if options.quick else 8
    rows: list[tuple[float, float, float]] = []
    with Sandboxed() as bench:
        if '"namespaces"' not in bench.nemodeploy("sandbox", "status", "--json"):
            sys.exit("this benchmark needs nodes that are hosts of their own; namespaces are refused here")
        bundle = bench.home / "bundle"
        bench.nemodeploy("render", *WISH, "--output", str(bundle))
        ask = {"sentences": ["What is the capital of France?"], "tokens_to_generate": 24, "greedy": True}
        (bundle / "ask.json").write_text(json.dumps(ask))
        run, both = ("run", *WISH, "--", "true"), (("up", *WISH), ("down", NAME))
        timed(bench, run)  # warm caches, uncounted
        for number in range(turns):
            time.sleep(SETTLE_S)
            ours = timed(bench, run)
            time.sleep(SETTLE_S)
            apart = timed(bench, *both)
            time.sleep(SETTLE_S)
            rows.append((ours, apart, typed(bench, bundle, number)))
    ours, apart, hand = (statistics.median(column) for column in zip(*rows, strict=True))
    report = Bench("run_overhead", quick=options.quick, counts={"turns": turns})
    report.figure("run_s", round(ours, 2), "nemodeploy run -- true, median seconds")
    report.figure("up_down_s", round(apart, 2), "nemodeploy up, then nemodeploy down")
    report.figure("by_hand_s", round(hand, 2), "submit.sh, curl and scancel by hand")
    report.figure("ratio", round(ours / apart, 3), "run over up and down")
    report.goal("at most 1.1 times up and down", ours <= 1.1 * apart)
    return report.print(as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
