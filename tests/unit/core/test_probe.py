"""What nodes say, and what is made of it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from nemodeploy.app.wanted import Wanted, Wish, resolve
from nemodeploy.core import probe
from nemodeploy.core.checks import Verdict
from tests.conftest import ROOT

CLUSTER = str(ROOT / "tests/golden/site.yaml")


def wanted(profile: str, *settings: tuple[str, object, str]) -> Wanted:
    return resolve(Wish(profile=profile, name=None, cluster=CLUSTER, settings=settings), {}, needs_site=True)


GOOD = """\
n1 bash 5.2
n1 root yes
n1 slurm_gpus 8
n1 gpus 8
n1 shm_mb 60000
n1 checkpoint yes
n1 port free
noise: n1 root no such thing
n2 bash 4.4
n2 root yes
n2 slurm_gpus 8
n2 shm_mb 60000
n2 checkpoint yes
n2 port free
"""


def found(text: str, seen: int = 2, container: tuple[int, str] | None = (0, "")) -> dict[str, list[str]]:
    """What failed or warns, by check."""
    checks = probe.judge(wanted("h100x16").plan, probe.parse(text), seen, container)
    bad: dict[str, list[str]] = {}
    for one in checks:
        if one.verdict is not Verdict.OK:
            assert one.remedy
            bad.setdefault(one.name, []).append(one.says)
    return bad


def test_good_nodes_have_nothing_against_them() -> None:
    assert found(GOOD) == {}


@pytest.mark.parametrize(
    ("change", "check", "says"),
    [
        (("n2 root yes", "n2 root no"), "root", "n2: they do not see the root"),
        (("n1 checkpoint yes", "n1 checkpoint no"), "checkpoint", "n1: they do not see the checkpoint"),
        (("n2 bash 4.4", "n2 bash 4.1"), "bash", "n2: older than 4.2"),
        (("n2 slurm_gpus 8", "n2 slurm_gpus 7"), "gpus", "Slurm gave fewer than 8 GPUs: n2 7"),
        (("n1 gpus 8", "n1 gpus 0"), "gpus", "nvidia-smi shows fewer than 8 GPUs: n1 0"),
        (("n1 port free", "n1 port taken"), "port", "n1: 1424 is taken"),
        (("n1 shm_mb 60000", "n1 shm_mb 64"), "/dev/shm", "n1: under 1024 MB"),
        (("n1 bash 5.2", "n1 unresolved n2\nn1 bash 5.2"), "names", "cannot resolve n2"),
    ],
)
def test_what_a_node_lacks_is_named(change: tuple[str, str], check: str, says: str) -> None:
    bad = found(GOOD.replace(*change))
    assert list(bad) == [check]
    assert says in bad[check][0]


def test_a_node_that_is_silent_and_files_that_do_not_come_back() -> None:
    assert "1 of 2 nodes answered" in found(GOOD.partition("n2")[0], seen=1)["nodes"][0]
    assert "what 1 of 2 nodes wrote" in found(GOOD, seen=1)["root"][0]
    assert "pyxis: failed" in found(GOOD, container=(1, "x\npyxis: failed to import\n\n"))["container"][0]


@pytest.mark.parametrize("runtime", ["pyxis", "apptainer", "docker", "podman"])
def test_the_scripts_are_clean(tmp_path: Path, runtime: str) -> None:
    image = {"pyxis": "/x.sqsh", "apptainer": "/x.sif"}.get(runtime, "nvcr.io/nvidia/nemo:24.01.framework")
    made = wanted("h100x16", ("runtime", runtime, "test"), ("images.nemo-eval", image, "test")).probe(600)
    assert set(made) == {"nemo_inference.sbatch", "probe.sh", "submit.sh"}
    for name, text in made.items():
        (tmp_path / name).write_text(text)
    words = ["shellcheck", "--severity=warning", *(str(tmp_path / name) for name in made)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_plain_host_has_no_nodes_to_look_at(tmp_path: Path) -> None:
    host = tmp_path / "host.yaml"
    host.write_text(
        "ssh: {host: big}\nscheduler: none\nruntime: none\n"
        "programs: {llamacpp: [/x]}\ncheckpoints: {tiny: {gguf: /m.gguf}}\n"
    )
    assert resolve(Wish(profile="cpu", name=None, cluster=str(host), settings=()), {}, needs_site=True).probe(600) == {}
