"""How long an engine's own server takes, and what nemodeploy adds: job start, the server's own ready, our READY.

Each installed engine's real server is deployed on the sandbox, one after the other. Its own ready is when it says so
itself, asked by curl every 50 ms from the login node, which knows node and port beforehand; the question is the
engine's cheap one, so that nobody stands before the job in a server that answers one at a time. READY is when `up` says
so: by then the server has answered a real prompt, and what that took it (from the job's asking to its having the text)
is the server's, not ours. The rest is nemodeploy's. The supervisor's memory is the proportional share (PSS) of its
shell and the shell's own forks while it serves. Without --quick the 16 ranks of the 340B card's row are among them.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from common import Bench, Sandboxed, arguments

from nemodeploy.adapters.resources import engines_directory
from nemodeploy.engines import ENGINES
from nemodeploy.sandbox.packs import Packs

NODE, PORT = "h100-1", 8200
NEMOTRON, L70, L51 = "nemotron-3-8b-chat-4k-rlhf", "llama-3.1-nemotron-70b-instruct", "llama-3.1-nemotron-51b-instruct"
QUICK = (
    ("cpu", "tiny", "llamacpp"),
    ("cpu", "tiny", "transformers"),
    ("h100x1", NEMOTRON, "nemo-trtllm"),
    ("h100x1", NEMOTRON, "nemo-eval"),
)
LONG = (
    ("h100x2", L70, "nemo-triton"),
    ("h100x2", L70, "nemo-hf-triton"),
    ("h100x2", L51, "vllm"),
    ("h100x16", "nemotron-4-340b-instruct", "nemo-eval"),
)


def asking(bench: Sandboxed, engine: str, served: str) -> subprocess.Popen[str]:
    """A loop on the login node that prints when the server first says that it is ready."""
    probe = ENGINES[engine].cheap_probe(served)
    body = f"-d {shlex.quote(probe.body)} " if probe.body else ""
    curl = (
        f"curl -s -m 20 -o own.answer -w '%{{http_code}} ' -X {probe.method} -H 'Content-Type: application/json' "
        f"{body}http://{NODE}:{PORT}{probe.path}"
    )
    answer = f"{{ {curl}; cat own.answer; }} 2>/dev/null | tr '\n' ' '"
    loop = f"until {answer} | grep -Eq {shlex.quote(probe.success)}; do sleep 0.05; done; date +%s.%N"
    return subprocess.Popen(
        [*bench.ssh, "--", loop], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def supervisor_mb(token: str) -> float:
    """PSS of the supervisor's shell and of its forks, in MB of 10^6 bytes."""
    whole = 0
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (path / "cmdline").read_bytes().decode(errors="replace")
            if token in words and "slurm_script" in words:
                line = next(row for row in (path / "smaps_rollup").read_text().splitlines() if row.startswith("Pss:"))
                whole += int(line.split()[1]) * 1024
    return whole / 1e6


def deploy(bench: Sandboxed, profile: str, model: str, engine: str) -> tuple[float, float, float, float]:
    """Seconds from job start to its own ready, what its first answer took, from job start to READY; MB of the
    supervisor."""
    words = ["--profile", profile, "--model", model, "--engine", engine, "--name", "b", "--json"]
    words += ["--set", f"port={PORT}", "--set", f"slurm.extra_args=[--nodelist={NODE}]"]
    if profile == "h100x16":
        words[-1] = "slurm.extra_args=[]"
    served = json.loads(bench.nemodeploy("plan", *words))["served"]
    with asking(bench, engine, served) as loop:
        command = [sys.executable, "-m", "nemodeploy", "up", *words]
        with subprocess.Popen(
            command, env=bench.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as up:
            assert up.stderr is not None
            ready = 0.0
            for line in up.stderr:
                if "  ready  " in line:
                    ready = time.time()
            document = json.loads(up.stdout.read() if up.stdout else "{}")
        if not ready:
            raise RuntimeError(f"{engine} did not come up: {document}")
        own = float(loop.communicate(timeout=60)[0])
    claim = next(bench.place.shared.rglob(document["token"])) / "claim"
    begun = claim.lstat().st_mtime  # the first thing that the job does
    memory = supervisor_mb(document["token"])
    bench.nemodeploy("down", "b")
    return own - begun, document["timings"]["answer_s"], ready - begun, memory


def main() -> int:
    """Every engine that is here, in turn."""
    options = arguments(__doc__ or "")
    if not shutil.which("curl"):
        sys.exit("this benchmark needs curl: apt-get install curl")
    here = Packs(engines_directory()).programs()
    rows = [row for row in (QUICK if options.quick else QUICK + LONG) if row[2] in here]
    report = Bench("engines", quick=options.quick, counts={"engines": len(rows)})
    ours, memories = [], []
    with Sandboxed() as bench:
        bench.environment["NEMODEPLOY_ENGINES_DIR"] = str(engines_directory())
        bench.nemodeploy("sandbox", "up", "--engines", "real")
        for profile, model, engine in rows:
            own, answer, ready, memory = deploy(bench, profile, model, engine)
            ours.append(ready - own - answer)
            memories.append(memory)
            key = f"{engine}_{profile}".replace("-", "_")
            report.figure(f"{key}_own_s", round(own, 2), f"{engine} on {profile}: job start to its own ready")
            report.figure(f"{key}_answer_s", round(answer, 2), "  its first answer")
            report.figure(f"{key}_ready_s", round(ready, 2), "  job start to READY")
            report.figure(f"{key}_ours_s", round(ours[-1], 2), "  of that nemodeploy's")
    report.figure("supervisor_mb", round(max(memories), 1), "MB the supervisor takes, at most (PSS)")
    report.goal("nemodeploy adds at most 1 s to each", max(ours) <= 1.0)
    report.goal("the supervisor takes at most 10 MB", max(memories) <= 10)
    for name in sorted({row[2] for row in QUICK + LONG} - set(here)):
        report.lines.append(f"  not here: {name} (nemodeploy sandbox engines install)")
    return report.print(as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
