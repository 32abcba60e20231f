"""What `nemodeploy up` costs over doing the same by hand.

In one run, alternately: (a) `nemodeploy up` to READY; (b) `ssh` and `sbatch` of the same rendered files, and a curl
loop every 0.2 s until the first generated text. Prints both and their ratio.
"""

from __future__ import annotations

import json
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from common import Bench, Sandboxed, arguments

NAME = "bench"
SETTLE_S = 1.5  # Slurm schedules later just after another job has ended; both ways get the same rest before
LOOP = """
cd {directory} && sh submit.sh >job || exit 1
left=500
until curl -s -X PUT -H 'Content-Type: application/json' --max-time 30 http://{host}:1424/generate -d @ask.json \
  | grep -q '"sentences"'; do
  left=$((left - 1)); [ "$left" -gt 0 ] || exit 1
  sleep 0.2
done
"""


def by_hand(bench: Sandboxed, bundle: Path, number: int) -> float:
    """Seconds from the copy of the files to the first generated text; takes the job back afterwards, untimed."""
    directory = f"{bench.place.shared}/hand-{number}"
    begun = time.monotonic()
    up_by_hand(bench, bundle, directory)
    took = time.monotonic() - begun
    done = f"scancel $(cat {directory}/job); while squeue -h | grep -q .; do sleep 0.2; done"
    subprocess.run([*bench.ssh, done], check=True, capture_output=True)
    return took


def up_by_hand(bench: Sandboxed, bundle: Path, directory: str) -> None:
    """Copy the files, submit them, and ask until text comes back."""
    archive = subprocess.run(["tar", "-C", str(bundle), "-c", "."], capture_output=True, check=True).stdout
    unpack = f"mkdir {shlex.quote(directory)} && tar -C {shlex.quote(directory)} -x"
    subprocess.run([*bench.ssh, unpack], input=archive, check=True)
    script = LOOP.format(directory=shlex.quote(directory), host="h100-1")
    subprocess.run([*bench.ssh, "sh", "-s"], input=script.encode(), check=True)


def rendered(bench: Sandboxed) -> Path:
    """The files of a deployment, and the request that is to be answered. Ends where this machine cannot do it."""
    if not shutil.which("curl"):
        sys.exit("this benchmark needs curl: apt-get install curl")
    if '"namespaces"' not in bench.nemodeploy("sandbox", "status", "--json"):
        sys.exit("this benchmark needs nodes that are hosts of their own; namespaces are refused here")
    bundle = bench.home / "bundle"
    bench.nemodeploy("render", "--profile", "h100x16", "--name", NAME, "--output", str(bundle))
    ask = {"sentences": ["What is the capital of France?"], "tokens_to_generate": 24, "greedy": True}
    (bundle / "ask.json").write_text(json.dumps(ask))
    return bundle


def by_nemodeploy(bench: Sandboxed) -> float:
    """Seconds of the whole command, its start included; down afterwards, untimed."""
    begun = time.monotonic()
    bench.nemodeploy("up", "--profile", "h100x16", "--name", NAME)
    took = time.monotonic() - begun
    bench.nemodeploy("down", NAME)
    return took


def main() -> int:
    """Run the pairs and say whether the goal is met."""
    options = arguments(__doc__ or "")
    pairs = 3 if options.quick else 8
    rows: list[tuple[float, float]] = []
    with Sandboxed() as bench:
        bundle = rendered(bench)
        by_nemodeploy(bench)  # warm caches, uncounted
        for number in range(pairs):
            time.sleep(SETTLE_S)
            ours = by_nemodeploy(bench)
            time.sleep(SETTLE_S)
            rows.append((ours, by_hand(bench, bundle, number)))
    own, hand = (statistics.median(column) for column in zip(*rows, strict=True))
    report = Bench("up_overhead", quick=options.quick, counts={"pairs": pairs})
    report.figure("nemodeploy_up_s", round(own, 2), "nemodeploy up to READY, median seconds")
    report.figure("by_hand_s", round(hand, 2), "ssh + sbatch + curl loop by hand, median seconds")
    report.figure("ratio", round(own / hand, 3), "ratio")
    report.figure("extra_s", round(own - hand, 2), "seconds more than by hand")
    report.goal("at most 1.05 times by hand plus 1 s", own <= hand * 1.05 + 1.0)
    return report.print(as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
