"""`init` writes a cluster file that works as it is, whatever the site is dressed up as."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from nemodeploy.adapters.ssh_settings import hosts
from nemodeploy.app.site_file import Found, Space, gpu_types, write
from nemodeploy.sandbox.cluster import Sandbox
from nemodeploy.schedulers.survey import NodeKind, Survey
from tests.conftest import Home
from tests.faults.rig import Rig
from tests.terminal import terminal

pytestmark = pytest.mark.sandbox
ALIAS = "nemodeploy-sandbox"
# The default account first, whatever the order; what belongs to another cluster of the slurmdbd is not ours.
ACCOUNTS = r"printf '%s\n' 'far|normal|elsewhere|far' 'cv|normal|sandbox|nlp' 'nlp|normal|sandbox|nlp'"
SINFO = 'case "$*" in *%G*) printf \'%s\\n\' {rows};; *) exec $real "$@";; esac'


@pytest.fixture
def rig(site: Home, sandbox: Sandbox) -> Iterator[Rig]:
    rig = Rig(site, sandbox)
    yield rig
    rig.unshim()


def written(rig: Rig, *words: str) -> dict[str, Any]:
    """The file that init writes without a question; doctor has nothing against it as it is."""
    config = str(rig.sandbox.place.ssh_config)
    done = rig.site.run("init", ALIAS, "--ssh-config", config, "--name", "dressed", "--yes", "--json", *words)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert Path(document["file"]).read_text() == document["text"]
    seen = rig.site.run("doctor", "dressed")
    assert seen.returncode == 0, seen.stdout
    found: dict[str, Any] = yaml.safe_load(document["text"])
    return found


def nodes(*rows: str) -> str:
    return SINFO.format(rows=" ".join(f"'{row}'" for row in rows))


def both(*plants: Callable[[Rig], object]) -> Callable[[Rig], object]:
    """One after the other."""
    return lambda rig: [plant(rig) for plant in plants]


def login_shell(rig: Rig, path: str) -> None:
    """What a login shell's PATH begins with there, or all of it."""
    profile = rig.sandbox.place.home / ".profile"
    profile.write_text(f"export PATH={path}\n")
    rig.undo.append(profile.unlink)


def no_slurm(rig: Rig) -> None:
    rig.hide("sinfo", "sbatch", "scontrol")
    login_shell(rig, "/nowhere")


def asked(request: str) -> dict[str, Any]:
    return {name: {"request": request.format(name)} for name in ("a100", "h100", "h200")}


def changed(what: str, expression: str) -> str:
    """A shim of scontrol that changes one of its answers."""
    return f'[ "$1 $2" = "show {what}" ] && {{ $real "$@" | sed "{expression}"; }} || exec $real "$@"'


DISGUISES: dict[str, tuple[Callable[[Rig], object], dict[str, Any]]] = {
    "as it is": (
        lambda rig: None,
        {"slurm": {"partition": "batch"}, "gpus": asked("--gpus-per-node={0}:8")},
    ),
    "long names of GPUs, and containers by pyxis": (
        both(
            lambda rig: rig.shim("sinfo", nodes("batch|4|gpu:nvidia_h100_80gb_hbm3:8(S:0-1)|mixed|96|2000000|(null)")),
            lambda rig: rig.shim("srun", "echo '      --container-image=IMAGE'"),
        ),
        {"runtime": "pyxis", "gpus": {"h100": {"request": "--gpus-per-node=nvidia_h100_80gb_hbm3:8"}}},
    ),
    "GPUs without a type, and a feature that tells": (
        lambda rig: rig.shim("sinfo", nodes("batch|2|gpu:4|idle|64|500000|ib,a100_40g")),
        {"gpus": {"a100-40g": {"request": "--gpus-per-node=4"}}},
    ),
    "an old way to ask for GPUs": (
        lambda rig: rig.shim(
            "scontrol", '[ "$1 $2" = "show config" ] && echo "SelectType  = select/cons_res" || exec $real "$@"'
        ),
        {"gpus": asked("--gres=gpu:{0}:8")},
    ),
    "no default partition, two accounts, and a docker without its daemon": (
        both(
            lambda rig: rig.shim("scontrol", changed("partition", "s/Default=YES/Default=NO/")),
            lambda rig: rig.shim("sacctmgr", ACCOUNTS),
            lambda rig: rig.shim("docker", '[ "$1" != info ]'),
        ),
        {"slurm": {"partition": "batch", "account": "nlp"}, "runtime": "none"},
    ),
    "short times only": (
        lambda rig: rig.shim("scontrol", changed("partition", "s/MaxTime=[^ ]*/MaxTime=02:00:00/")),
        {"time": "02:00:00"},
    ),
    "no Slurm on a host with GPUs": (
        both(
            no_slurm,
            lambda rig: rig.shim("nvidia-smi", "echo 'GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-0)'"),
        ),
        {"scheduler": "none", "slurm": None},
    ),
}


@pytest.mark.parametrize("dressed", DISGUISES)
def test_the_file_works_as_it_is(rig: Rig, dressed: str) -> None:
    plant, wanted = DISGUISES[dressed]
    plant(rig)
    found = written(rig)
    assert {key: found.get(key) for key in wanted} == wanted


def test_slurm_that_only_a_login_shell_finds_is_used(rig: Rig) -> None:
    place = rig.sandbox.place.root / "run/module"
    place.mkdir(exist_ok=True)
    for one in ("sbatch", "squeue", "scancel", "scontrol", "sinfo", "srun", "sacct", "sacctmgr"):
        where = shutil.which(one, path=rig.sandbox.search_path)
        if not (place / one).exists():
            (place / one).symlink_to(str(where))
    rig.hide(*(one.name for one in place.iterdir()))
    login_shell(rig, f"{place}:$PATH")
    assert written(rig)["slurm"] == {"path": str(place), "partition": "batch"}


def test_no_slurm_is_never_concluded_of_a_host_without_gpus(rig: Rig) -> None:
    no_slurm(rig)
    config = str(rig.sandbox.place.ssh_config)
    done = rig.site.run("init", ALIAS, "--ssh-config", config, "--name", "bare", "--yes", "--json")
    text = json.loads(done.stdout)["text"]
    assert "scheduler" not in yaml.safe_load(text)
    for line in ("# slurm: {path: ", "# scheduler: none ", "this host has no GPUs"):
        assert line in text
    assert rig.site.run("doctor", "bare").returncode == 12


def test_nothing_is_overwritten_and_a_host_is_wanted(rig: Rig) -> None:
    config = str(rig.sandbox.place.ssh_config)
    words = ("init", ALIAS, "--ssh-config", config, "--name", "one", "--yes")
    assert rig.site.run(*words).returncode == 0
    for wrong, said in ((words, "is there already"), (("init", "--ssh-config", config, "--yes"), f"knows {ALIAS}")):
        done = rig.site.run(*wrong)
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    assert rig.site.run("init", "-oProxyCommand=x").returncode == 2
    assert rig.site.run("init", "127.0.0.1", "--name", "two", "--yes").returncode in (10, 11)
    assert not (rig.site.config / "clusters/two.yaml").exists()


def test_on_a_terminal_it_asks_what_it_cannot_know(rig: Rig) -> None:
    rig.shim("sacctmgr", "printf 'nlp|normal\\ncv|normal\\n'")
    config = str(rig.sandbox.place.ssh_config)
    with terminal(rig.site.environment, "init", ALIAS, "--ssh-config", config, "--name", "asked") as init:
        init.until("which partition?")
        init.types("short\n")
        init.until("which account is to pay?")
        init.types("cv\n")
        init.until("written to")
        assert init.ended() == 0
    found = yaml.safe_load((rig.site.config / "clusters/asked.yaml").read_text())
    assert (found["slurm"], found["time"]) == ({"partition": "short", "account": "cv"}, "00:30:00")


def test_hosts_come_from_the_configuration_and_what_it_includes(tmp_path: Path) -> None:
    (tmp_path / "more").write_text("Host inner *.example\n")
    (tmp_path / "config").write_text('Host a b !c *\nInclude more nothing\nHost="d"\n')
    assert list(hosts(tmp_path / "config")) == ["a", "b", "inner", "d"]


def test_the_root_goes_to_what_all_nodes_share() -> None:
    here = Space(path="/home/me", kind="ext2/ext3", free_gb=10)
    shared = (Space(path="/scratch/me", kind="lustre", free_gb=900), Space(path="/data/me", kind="nfs", free_gb=90))

    def root(*spaces: Space) -> str:
        found = Found(
            host="h", config="", description="", survey=Survey(version=""), spaces=spaces, runtimes={}, home="/home/me"
        )
        return str(yaml.safe_load(write(found, lambda _, __, best: best))["root"])

    assert root(here, *shared) == "/scratch/me/nemodeploy"
    assert root(here) == "$HOME/.nemodeploy"
    assert root(Space(path="/home/me", kind="nfs", free_gb=1), *shared) == "$HOME/.nemodeploy"
    assert root() == "$HOME/.nemodeploy"


def test_slices_of_a_gpu_are_no_gpus() -> None:
    kind = NodeKind(
        partition="p",
        nodes=1,
        gpus={"nvidia_a100_3g.40gb": 2, "h200": 8},
        state="idle",
        cpus=1,
        memory_mb=1,
        features=(),
    )
    assert gpu_types([kind]) == {"h200": ("h200", 8)}


def test_the_other_accounts_stand_in_the_file() -> None:
    survey = Survey(version="24.11.5", accounts={"nlp": (), "cv": (), "far": ()})
    found = Found(host="h", config="", description="", survey=survey, spaces=(), runtimes={}, home="/home/me")
    text = write(found, lambda _, answers, __: answers[1])
    assert yaml.safe_load(text)["slurm"] == {"account": "cv"}
    assert "# other accounts of yours: nlp, far\n" in text
