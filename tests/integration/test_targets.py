"""Every profile, engine and scheduler for real: started, asked, taken down. Their programs are stand-ins."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from nemodeploy.sandbox.cluster import Sandbox
from tests.conftest import Home

pytestmark = pytest.mark.sandbox
PARIS = "The capital of France is Paris."


def walk(site: Home, sandbox: Sandbox, *words: str) -> dict[str, object]:
    """Up, a question, down; returns what `up` said."""
    done = site.run("up", *words, "--json")
    assert done.returncode == 0, done.stderr
    up: dict[str, object] = json.loads(done.stdout)
    name = str(up["name"])
    where = words[words.index("--cluster") : words.index("--cluster") + 2] if "--cluster" in words else ()
    answer = site.run("generate", name, "The capital of Italy is ", *where)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip()
    assert site.run("down", name, *where).returncode == 0
    assert sandbox.exec("squeue", "--noheader").stdout == ""
    return up


@pytest.mark.parametrize(
    ("profile", "engine", "gpus"),
    [
        ("h100x1", "vllm", 1),
        pytest.param("a100x2", "nemo-triton", 2, marks=pytest.mark.long),
        ("cpu", "llamacpp", 0),
        pytest.param("h100x2", "vllm", 2, marks=pytest.mark.long),
        pytest.param("a100x1", "nemo-trtllm", 1, marks=pytest.mark.long),
        pytest.param("a100-40gx1", "nemo-trtllm", 1, marks=pytest.mark.long),
        pytest.param("a100-40gx4", "nemo-triton", 4, marks=pytest.mark.long),
    ],
)
def test_a_profile_serves_with_its_own_models_engine(
    site: Home, sandbox: Sandbox, profile: str, engine: str, gpus: int
) -> None:
    up = walk(site, sandbox, "--profile", profile)
    assert (up["engine"], up["gpus"]) == (engine, gpus)


@pytest.mark.parametrize(
    "words",
    [
        ("--profile", "h100x16", "--engine", "vllm"),
        pytest.param(("--profile", "h200x8", "--engine", "nemo-trtllm"), marks=pytest.mark.long),
        pytest.param(
            ("--profile", "h100x2", "--model", "llama-3.1-nemotron-70b-instruct", "--engine", "transformers"),
            marks=pytest.mark.long,
        ),
        pytest.param(("--profile", "h200x8", "--model", "nemotron-4-340b-base"), marks=pytest.mark.long),
    ],
    ids=["vllm-two-nodes", "trtllm", "transformers", "base"],
)
def test_another_engine_or_model_serves_too(site: Home, sandbox: Sandbox, words: tuple[str, ...]) -> None:
    walk(site, sandbox, *words)


def plain_host(site: Home, sandbox: Sandbox) -> str:
    """The sandbox's login node as a host without a scheduler."""
    lines = (sandbox.place.root / "cluster.yaml").read_text().splitlines()
    kept = [line for line in lines if not line.startswith(("slurm:", "root:", "gpus:", "  h100:", "  a100", "  h200:"))]
    path = site.path / "plain.yaml"
    path.write_text("\n".join([*kept, f'root: "{site.path / "plain"}"', "scheduler: none", ""]))
    return str(path)


@pytest.mark.parametrize("scheduler", ["slurm", "none"])
def test_a_server_that_ends_in_order_on_an_interrupt_only_gets_one(
    site: Home, sandbox: Sandbox, scheduler: str
) -> None:
    where = ("--cluster", plain_host(site, sandbox)) if scheduler == "none" else ()
    up = json.loads(site.run("up", "--profile", "a100x2", *where, "--json").stdout)
    assert up["engine"] == "nemo-triton"
    assert site.run("down", str(up["name"]), *where).returncode == 0
    root = site.path / "plain" if where else sandbox.place.shared / "nemodeploy"
    (log,) = (root / "archive").glob(f"{up['token']}/epochs/*/logs/*.0.log")
    assert "stopped by an interrupt" in log.read_text()


@pytest.mark.parametrize("profile", ["cpu", pytest.param("h200x8", marks=pytest.mark.long)])
def test_a_host_without_a_scheduler_serves_and_is_left_clean(site: Home, sandbox: Sandbox, profile: str) -> None:
    cluster = plain_host(site, sandbox)
    up = walk(site, sandbox, "--profile", profile, "--cluster", cluster)
    assert up["answer"] == PARIS
    assert sandbox.exec("pgrep", "-f", str(site.path / "plain")).stdout == "", "no process is left"


def test_the_same_name_is_adopted_on_a_host_without_a_scheduler(site: Home, sandbox: Sandbox) -> None:
    cluster = plain_host(site, sandbox)
    words = ("up", "--profile", "cpu", "--cluster", cluster, "--json")
    first, second = (json.loads(site.run(*words).stdout) for _ in range(2))
    assert (first["adopted"], second["adopted"]) == (False, True)
    assert first["token"] == second["token"]
    assert site.run("down", "tiny", "--cluster", cluster).returncode == 0


def test_a_supervisor_that_was_killed_takes_its_ranks_along(site: Home, sandbox: Sandbox) -> None:
    cluster = plain_host(site, sandbox)
    up = json.loads(site.run("up", "--profile", "cpu", "--cluster", cluster, "--json").stdout)
    sandbox.exec("kill", "-KILL", up["job_id"])
    seen = json.loads(site.run("status", "--json", "--cluster", cluster).stdout)["deployments"][0]
    assert seen["state"] != "READY"
    deadline = time.monotonic() + 15
    while sandbox.exec("pgrep", "-f", str(site.path / "plain")).stdout and time.monotonic() < deadline:
        time.sleep(0.2)
    assert sandbox.exec("pgrep", "-f", str(site.path / "plain")).stdout == "", "the ranks end with it"


def test_a_server_on_a_host_without_a_scheduler_listens_on_loopback_only(site: Home, sandbox: Sandbox) -> None:
    cluster = plain_host(site, sandbox)
    up = json.loads(site.run("up", "--profile", "cpu", "--cluster", cluster, "--json").stdout)
    endpoint = up["endpoint"]
    assert isinstance(endpoint, dict)
    port = endpoint["url"].rpartition(":")[2].strip("/")
    listening = sandbox.exec("ss", "-ltnH", f"sport = :{port}").stdout
    assert f"127.0.0.1:{port}" in listening
    assert f"0.0.0.0:{port}" not in listening
    assert site.run("down", "tiny", "--cluster", cluster).returncode == 0
    assert Path(cluster).exists()


def own_words(site: Home, scheduler: str, sandbox: Sandbox, module: str) -> str:
    """A cluster file with a module, a line of shell and defaults of a type of GPU; its path."""
    text = Path(plain_host(site, sandbox)).read_text() if scheduler == "none" else ""
    text = text or (sandbox.place.root / "cluster.yaml").read_text()
    kept = [
        line for line in text.splitlines() if not line.startswith(("gpus:", "  h100:", "  a100", "  h200:", "env:"))
    ]
    more = (
        f"modules: [{module}]",
        "allow_raw: true",
        "prolog: [\"export FROM_PROLOG='a b'$FROM_MODULE\"]",
        "env: {OMP_NUM_THREADS: 1, FOR_GPU: all}",
        "gpus: {cpu: {defaults: {env: {FOR_GPU: none}}}, h100: {defaults: {env: {FOR_GPU: h100}}}}",
    )
    path = site.path / f"own-{scheduler}.yaml"
    path.write_text("\n".join((*kept, *more, "")))
    return str(path)


@pytest.mark.parametrize("scheduler", ["slurm", "none"])
def test_a_sites_modules_lines_and_defaults_reach_the_server(site: Home, sandbox: Sandbox, scheduler: str) -> None:
    module = site.path / "tool/1.2"
    module.parent.mkdir(exist_ok=True)
    module.write_text("#%Module1.0\nsetenv FROM_MODULE loaded\n")
    cluster = own_words(site, scheduler, sandbox, str(module))
    shown = site.run("plan", "--profile", "cpu", "--cluster", cluster).stdout
    assert f"  modules    {module}\n  prolog     export FROM_PROLOG='a b'$FROM_MODULE\n" in shown
    up = json.loads(site.run("up", "--profile", "cpu", "--cluster", cluster, "--json").stdout)
    try:
        found = sandbox.exec(
            "sh", "-c", f"grep -lz SLURM_JOB_NAME={up['token']} /proc/[0-9]*/environ | xargs cat"
        ).stdout
    finally:
        assert site.run("down", up["name"], "--cluster", cluster).returncode == 0
    assert {"FROM_MODULE=loaded", "FROM_PROLOG=a bloaded", "FOR_GPU=none"} <= set(found.split("\0"))


def test_a_module_that_is_not_there_is_named(site: Home, sandbox: Sandbox) -> None:
    cluster = own_words(site, "slurm", sandbox, "no/such")
    done = site.run("up", "--profile", "cpu", "--cluster", cluster)
    assert done.returncode == 30
    assert "a module of the cluster file could not be loaded on the node" in done.stderr
    assert "Unable to locate a modulefile for 'no/such'" in done.stderr
