"""Ways in which real servers die, hang or lie, on a real Slurm: none of them stays READY, none is called done."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from nemodeploy.sandbox.cluster import Sandbox
from nemodeploy.sandbox.packs import PACKS
from tests.conftest import Home
from tests.engines.servers import L51, L70, N8, needs, packs
from tests.engines.test_cards import real_site

__all__ = ["real_site"]
pytestmark = [pytest.mark.sandbox, pytest.mark.engines]
SMALL_HEADS = """
import sys
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

config = LlamaConfig(
    vocab_size=640, hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=4, head_dim=16, max_position_embeddings=4096,
)
LlamaForCausalLM(config).save_pretrained(sys.argv[2])
AutoTokenizer.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])
"""


def kill(sandbox: Sandbox, pattern: str) -> None:
    """KILL to the one process of the sandbox whose command line matches."""
    done = sandbox.exec("pkill", "-KILL", "-n", "-f", pattern)
    assert done.returncode == 0, f"no process {pattern}"


@pytest.mark.parametrize(
    ("words", "engine", "victim"),
    [
        (("--profile", "h100x2", "--model", L51), "vllm", "VLLM::Worker_TP1"),
        (("--profile", "h100x1", "--model", N8), "nemo-trtllm", "bin/tritonserver"),
    ],
    ids=["vllm-worker", "tritonserver"],
)
def test_a_server_that_dies_with_status_0_has_failed(
    real_site: Home, sandbox: Sandbox, words: tuple[str, ...], engine: str, victim: str
) -> None:
    needs(engine)
    up = real_site.up(*words, timeout=200)
    kill(sandbox, victim)
    deadline = time.monotonic() + 60
    while (sandbox.exec("squeue", "--noheader").stdout) and time.monotonic() < deadline:
        time.sleep(0.3)
    job = sandbox.exec("scontrol", "show", "job", str(up["job_id"])).stdout
    assert "JobState=FAILED" in job
    exit_json = next((sandbox.place.shared / "nemodeploy/deployments").glob(f"*/{up['token']}/epochs/*/exit.json"))
    last = json.loads(exit_json.read_text())
    assert last["cause"] == "server_exited"
    done = real_site.run("wait", str(up["name"]), "--for", "ready")
    assert done.returncode == 30, done.stderr


def test_a_server_that_is_healthy_and_dies_at_the_first_request_was_never_ready(
    real_site: Home, tmp_path: Path
) -> None:
    needs("vllm")
    model = tmp_path / "small-heads"
    python = str(packs().python(PACKS["vllm"]))
    subprocess.run([python, "-c", SMALL_HEADS, packs().checkpoint("tiny"), str(model)], check=True, capture_output=True)
    site = real_site.cluster("small", checkpoints={"tiny": {"hf": str(model)}})
    done = real_site.run("up", "--profile", "cpu", "--engine", "vllm", "--cluster", site, timeout=200)
    assert done.returncode == 30, done.stderr
    assert "ready  " not in done.stderr


def test_an_error_sentence_in_status_200_is_never_ready(real_site: Home) -> None:
    """Export-Deploy as it is, on a host without GPUs: every answer is an apology."""
    needs("nemo-hf-triton")
    site = real_site.cluster("bare", env={"OMP_NUM_THREADS": "1", "UNMODIFIED": "1"})
    words = ("--profile", "h100x1", "--model", N8, "--engine", "nemo-hf-triton", "--startup-timeout", "15")
    done = real_site.run("up", *words, "--cluster", site, timeout=120)
    assert done.returncode == 32, done.stderr
    assert "An error occurred: Torch not compiled with CUDA enabled" in done.stderr


def test_a_rank_that_never_comes_is_counted(real_site: Home) -> None:
    needs("nemo-triton")
    document = yaml.safe_load((real_site.config / "clusters/sandbox.yaml").read_text())
    words = " ".join(document["programs"]["nemo-triton"])
    late = ["bash", "-c", f'[ "$SLURM_PROCID" = 1 ] && exec sleep 600; exec {words} "$@"', "late"]
    site = real_site.cluster("late", programs={**document["programs"], "nemo-triton": late})
    words_up = ("--profile", "h100x2", "--model", L70, "--startup-timeout", "15", "--cluster", site)
    done = real_site.run("up", *words_up, timeout=120)
    assert done.returncode == 32, done.stderr
    assert "1/2 ranks joined" in done.stderr


def test_a_lost_node_ends_it_though_its_health_stays_good(real_site: Home, hosts: Sandbox) -> None:
    needs("vllm")
    two = ("--nodes", "2", "--set", "gpus_per_node=1", "--set", "layout.tensor_parallel=2", "--set", "fast_link=true")
    up = real_site.up("--profile", "h100x16", "--model", L51, *two, timeout=240)
    health = ("curl", "-s", "-m", "5", "-w", "%{http_code}", f"{up['endpoint']['url']}/health")
    try:
        hosts.kill_node("h100-2")
        assert hosts.exec(*health).stdout == "200", "vLLM itself would call this healthy"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            seen = json.loads(real_site.run("status", "--json").stdout)["deployments"]
            if not seen or seen[0]["state"] not in ("READY", "DEGRADED", "STOPPING", "UNKNOWN"):
                break
            time.sleep(1)
        assert not seen or seen[0]["state"] == "ENDED", seen
    finally:
        real_site.run("down", str(up["name"]))
        hosts.start_node("h100-2")
        hosts.exec("scontrol", "update", "NodeName=h100-2", "State=RESUME")
