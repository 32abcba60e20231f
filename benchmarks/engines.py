"""How long an engine's own server takes, and what nemodeploy adds: job start, the server's own ready, our READY.

Each installed engine's real server is deployed on the sandbox, one after the other. Its own ready is when it first
answers the model's own question, asked by curl every 50 ms from the login node, which knows node and port beforehand;
ours is when `up` says so. The difference is nemodeploy's. The supervisor's memory is the proportional share (PSS) of
its shell and the shell's own forks while it serves. Without --quick the 16 ranks of the 340B card's row are among them.
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
from nemodeploy.app.wanted import known_model
from nemodeploy.engines import ENGINES
from nemodeploy.sandbox.packs import Packs

NODE, PORT, TOKENS = "h100-1", 8200, 24
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


def asking(bench: Sandboxed, model: str, engine: str, served: str) -> subprocess.Popen[str]:
    """A loop on the login node that prints when the server first gives text."""
    prompting, plugin = known_model(model).prompting, ENGINES[engine]
    request = plugin.ask(served, prompting, prompting.compose(prompting.probe), max_tokens=TOKENS)
    curl = (
        f"curl -s -m 20 -X {request.method} -H 'Content-Type: application/json' "
        f"-d {shlex.quote(request.body)} http://{NODE}:{PORT}{request.path}"
    )
    loop = f"until {curl} | grep -q 'France is Paris'; do sleep 0.05; done; date +%s.%N"
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
    """Seconds from job start to its own ready, from job start to READY, ours beyond it; MB of the supervisor."""
    served = Packs(engines_directory()).checkpoint(model) if engine == "transformers" else model
    words = ["up", "--profile", profile, "--model", model, "--engine", engine, "--name", "b", "--json"]
    words += ["--set", f"port={PORT}", "--set", f"slurm.extra_args=[--nodelist={NODE}]"]
    if profile == "h100x16":
        words[-1] = "slurm.extra_args=[]"
    with asking(bench, model, engine, served) as loop:
        command = [sys.executable, "-m", "nemodeploy", *words]
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
    begun = ready - document["timings"]["startup_s"]
    memory = supervisor_mb(document["token"])
    bench.nemodeploy("down", "b")
    return own - begun, ready - begun, ready - own, memory


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
            own, ready, more, memory = deploy(bench, profile, model, engine)
            ours.append(more)
            memories.append(memory)
            key = f"{engine}_{profile}".replace("-", "_")
            report.figure(f"{key}_own_s", round(own, 2), f"{engine} on {profile}: job start to its own first text")
            report.figure(f"{key}_ready_s", round(ready, 2), "  job start to READY")
            report.figure(f"{key}_ours_s", round(more, 2), "  of that nemodeploy's")
    report.figure("supervisor_mb", round(max(memories), 1), "MB the supervisor takes, at most (PSS)")
    report.goal("nemodeploy adds at most 1 s to each", max(ours) <= 1.0)
    report.goal("the supervisor takes at most 10 MB", max(memories) <= 10)
    for name in sorted({row[2] for row in QUICK + LONG} - set(here)):
        report.lines.append(f"  not here: {name} (nemodeploy sandbox engines install)")
    return report.print(as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
