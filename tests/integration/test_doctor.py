"""Whatever is wrong with a site, `doctor` finds it and says what to do: each fault is planted for real."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from nemodeploy.app.validating import validate
from nemodeploy.sandbox.cluster import Sandbox
from nemodeploy.sandbox.place import NODES
from tests.conftest import ROOT, Home
from tests.contract.sshd import keygen
from tests.faults.rig import Rig

pytestmark = pytest.mark.sandbox
H100 = ("--profile", "h100x16")
MODEL = "nemotron-4-340b-instruct"
INDEX = "model.safetensors.index.json"
HF = ("--profile", "a100x2", "--engine", "nemo-hf-triton")
EVERY_NODE = ",".join(node.name for node in NODES)  # Slurm 20.11 does not know ALL
L70 = "llama-3.1-nemotron-70b-instruct"


class Bed(Rig):
    """A site whose cluster file is ours to spoil, and what `doctor` says of it."""

    def __init__(self, site: Home, sandbox: Sandbox, path: Path) -> None:
        super().__init__(site, sandbox)
        self.path, self.more = path, dict[str, Any]()
        self.file = site.config / "clusters/sandbox.yaml"
        self.shared = sandbox.place.shared

    def set(self, **changes: Any) -> None:
        document = {**yaml.safe_load(self.file.read_text()), **changes}
        self.file.write_text(yaml.safe_dump(document))

    def real(self, **changes: Any) -> None:
        """No stand-ins: image and checkpoint count."""
        self.set(stand_in=False, **changes)

    def ssh(self, *lines: str, drop: str = "") -> None:
        """The sandbox's own way in, with other settings before it."""
        text = self.sandbox.place.ssh_config.read_text()
        kept = [line for line in text.splitlines() if not drop or drop not in line]
        config = self.path / "ssh_config"
        config.write_text("\n".join([kept[0], *(f"    {line}" for line in lines), *kept[1:]]) + "\n")
        self.set(ssh={"host": kept[0].split()[1], "config": str(config)})

    def scontrol(self, *words: str) -> None:
        done = self.sandbox.exec("scontrol", "update", *words)
        assert done.returncode == 0, done.stderr

    def flood(self) -> None:
        """All nodes down, without power. Down is said last: a ping that a node has answered makes it up again."""
        for node in NODES:
            self.sandbox.kill_node(node.name)
        self.await_nodes(lambda state: state.endswith("*"))  # Slurm's mark for a node that no longer answers
        self.scontrol(f"nodename={EVERY_NODE}", "state=down", "reason=flood")

    def mend(self) -> None:
        for node in NODES:
            self.sandbox.start_node(node.name)
        self.await_nodes(lambda state: state == "idle")
        self.resume()

    def await_nodes(self, wanted: Callable[[str], bool]) -> None:
        deadline = time.monotonic() + 30
        while not all(wanted(state) for state in self.sandbox.node_states().values()):
            assert time.monotonic() < deadline, self.sandbox.node_states()
            time.sleep(0.2)

    def resume(self) -> None:
        """All nodes as they were; one that has come back by itself refuses to."""
        for node in NODES:
            self.sandbox.exec("scontrol", "update", f"nodename={node.name}", "state=resume")
        states = self.sandbox.node_states().values()
        assert not [state for state in states if state.startswith(("down", "drain"))], states

    def checkpoint(self, model: str, kind: str, files: dict[str, str]) -> Path:
        """A directory with these files, as the model's checkpoint; no stand-ins."""
        directory = self.path / "checkpoint"
        for name, text in files.items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_text(text)
        self.real(checkpoints={model: {kind: str(directory)}})
        return directory

    def doctor(self, *words: str) -> tuple[int, list[dict[str, str]]]:
        done = self.site.run("doctor", "sandbox", *words, "--json", **self.more)
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)["checks"]


@pytest.fixture
def bed(site: Home, sandbox: Sandbox, tmp_path: Path) -> Iterator[Bed]:
    bed = Bed(site, sandbox, tmp_path)
    yield bed
    bed.unshim()


@dataclass(frozen=True)
class Fault:
    """How it is planted, what is asked for, which check finds it, and words of what it says and of the remedy."""

    plant: Callable[[Bed], object]
    words: tuple[str, ...]
    check: str
    says: str
    remedy: str
    undo: Callable[[Bed], object] = field(default=lambda _: None)
    warns: bool = False


def both(*plants: Callable[[Bed], object]) -> Callable[[Bed], object]:
    """One after the other."""
    return lambda bed: [plant(bed) for plant in plants]


def _index(*names: str) -> str:
    return json.dumps({"weight_map": {f"layer.{number}": name for number, name in enumerate(names)}})


def _host_key(bed: Bed, text: str) -> None:
    known = bed.path / "known_hosts"
    known.write_text(text)
    bed.ssh(f"UserKnownHostsFile {known}")


def _changed_key(bed: Bed) -> None:
    state = bed.sandbox.state()
    assert state is not None
    other = keygen(bed.path / "other").with_suffix(".pub").read_text()
    _host_key(bed, f"[127.0.0.1]:{state.port} {other}")


def _full(bed: Bed) -> None:
    bed.set(root=str(bed.shared / "full"))
    bed.shim("df", 'echo "Filesystem 1M-blocks Used Available Capacity Mounted"; echo "x 100 99 1 99% /x"')


POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 4\n"
FAULTS: dict[str, Fault] = {
    "login host unreachable": Fault(lambda b: b.ssh("Port 1", drop="Port"), (), "ssh", "cannot connect", "sandbox up"),
    "login host unknown": Fault(
        lambda b: b.ssh("HostName no.such.host.invalid", drop="HostName"), (), "ssh", "cannot connect", "sandbox up"
    ),
    "ssh configuration missing": Fault(
        lambda b: b.set(ssh={"host": "x", "config": "/no/such/file"}), (), "ssh", "does not exist", ""
    ),
    "host key unknown": Fault(lambda b: _host_key(b, ""), (), "ssh", "is unknown", "nemodeploy trust"),
    "host key changed": Fault(_changed_key, (), "ssh", "not the recorded one", "nemodeploy trust"),
    "key refused": Fault(
        lambda b: b.ssh(f"IdentityFile {keygen(b.path / 'mine')}", drop="IdentityFile"), (), "ssh", "refused", "by hand"
    ),
    "a transport that cannot do it": Fault(
        both(lambda b: b.ssh("CertificateFile ~/x-cert.pub"), lambda b: b.set(transport="paramiko")),
        (),
        "ssh",
        "paramiko cannot do CertificateFile",
        "transport: openssh",
    ),
    "a program missing on the login host": Fault(lambda b: b.hide("setsid"), (), "login host", "setsid", "util-linux"),
    "a login shell that is slow to start": Fault(
        lambda b: (b.sandbox.place.home / ".bashrc").write_text("sleep 2.2\n"),
        (),
        "ssh",
        "an answer takes 2",
        "~/.bashrc",
        undo=lambda b: (b.sandbox.place.home / ".bashrc").unlink(),
        warns=True,
    ),
    "clock wrong": Fault(
        lambda b: b.shim("date", '[ $1 = +%s ] && echo 1000000000 || exec $real "$@"'),
        (),
        "clock",
        "behind",
        "ask whose clock",
        warns=True,
    ),
    "root not writable": Fault(
        lambda b: b.set(root="/proc/nemodeploy"), (), "root", "cannot be written", "another root"
    ),
    "root full": Fault(_full, (), "root", "1 MB left", "make room"),
    "root on one machine's memory": Fault(
        lambda b: b.set(root=f"/dev/shm/nd-{os.getpid()}"), (), "root", "tmpfs", "on shared storage"
    ),
    "slurm not there": Fault(lambda b: b.hide("sbatch"), (), "slurm", "sbatch not found", "PATH"),
    "slurm too old": Fault(
        lambda b: b.shim("sinfo", '[ "$1" = --version ] && echo slurm 19.05.8 || exec $real "$@"'),
        (),
        "slurm",
        "older than 20.11",
        "newer",
    ),
    "controller down": Fault(
        lambda b: b.sandbox.signal_daemon("slurmctld", signal.SIGSTOP),
        (),
        "slurm",
        "the controller does not answer",
        "ask the site",
        undo=lambda b: b.sandbox.signal_daemon("slurmctld", signal.SIGCONT),
    ),
    "slurm forgets too soon": Fault(
        lambda b: b.shim("scontrol", '[ "$1 $2" = "show config" ] && echo "MinJobAge   = 5 sec" || exec $real "$@"'),
        (),
        "accounting",
        "forgets",
        "ask for accounting",
        warns=True,
    ),
    "partition unknown": Fault(
        lambda b: b.set(slurm={"partition": "nope"}), H100, "partition", "no partition nope", "batch"
    ),
    "partition down": Fault(
        lambda b: b.scontrol("partitionname=short", "state=down"),
        (*H100, "--set", "slurm.partition=short", "--time", "4m"),
        "partition",
        "DOWN",
        "ask the site",
        undo=lambda b: b.scontrol("partitionname=short", "state=up"),
    ),
    "time over the partition's": Fault(
        lambda _: None, (*H100, "--set", "slurm.partition=short"), "time", "allows 00:30:00", "--time 00:30:00"
    ),
    "nodes drained": Fault(
        lambda b: b.scontrol("nodename=h100-1", "state=drain", "reason=bad gpu"),
        ("--profile", "h100x16", "--nodes", "2"),
        "nodes",
        "bad gpu",
        "queue is longer",
        undo=lambda b: b.scontrol("nodename=h100-1", "state=resume"),
        warns=True,
    ),
    "all nodes down": Fault(
        lambda b: b.flood(),
        H100,
        "nodes",
        "flood",
        "when they are back",
        undo=lambda b: b.mend(),
    ),
    "no such GPU": Fault(
        lambda b: b.set(gpus={"h100": {"request": "--gpus-per-node=b300:8"}}),
        H100,
        "gpus",
        "0 nodes with 8 b300",
        "h100:8",
    ),
    "more nodes than there are": Fault(
        lambda _: None, (*H100, "--nodes", "4"), "gpus", "2 nodes with", "another profile"
    ),
    "account not yours": Fault(
        both(
            lambda b: b.shim("sacctmgr", "echo 'nlp|normal,high'"),
            lambda b: b.set(slurm={"partition": "batch", "account": "cv"}),
        ),
        H100,
        "account",
        "cv is not one of yours",
        "nlp",
    ),
    "qos not yours": Fault(
        both(
            lambda b: b.shim("sacctmgr", "echo 'nlp|normal,high'"),
            lambda b: b.set(slurm={"partition": "batch", "qos": "gold"}),
        ),
        H100,
        "qos",
        "gold is not one of yours",
        "high, normal",
    ),
    "reservation unknown": Fault(
        lambda b: b.set(slurm={"partition": "batch", "extra_args": ["--reservation=r"]}),
        H100,
        "submission",
        "reservation is invalid",
        "",
    ),
    "feature unknown": Fault(
        lambda b: b.set(slurm={"partition": "batch", "constraint": "nvlink9"}),
        H100,
        "submission",
        "Invalid feature",
        "",
    ),
    "secret not set": Fault(lambda b: b.set(secrets=["HF_KEY"]), H100, "secrets", "HF_KEY is not set", "export HF_KEY"),
    "secret with a line break": Fault(
        both(lambda b: b.set(secrets=["HF_KEY"]), lambda b: b.more.update(HF_KEY="abc\n")),
        H100,
        "secrets",
        "white space",
        "without it",
        warns=True,
    ),
    "runtime not installed": Fault(
        lambda b: b.real(runtime="apptainer", images={"nemo-eval": "/x.sif"}),
        H100,
        "runtime",
        "apptainer is not",
        "runtime:",
    ),
    "image missing": Fault(
        lambda b: b.real(runtime="pyxis", images={"nemo-eval": "/no/such.sqsh"}),
        H100,
        "image",
        "is not there",
        "images:",
    ),
    "image empty": Fault(
        both(
            lambda b: (b.path / "x.sqsh").write_text(""),
            lambda b: b.real(runtime="pyxis", images={"nemo-eval": str(b.path / "x.sqsh")}),
        ),
        H100,
        "image",
        "is empty",
        "import it",
    ),
    "image in a registry": Fault(
        lambda b: b.real(runtime="pyxis", images={"nemo-eval": "nvcr.io#nvidia/nemo:24.01.framework"}),
        H100,
        "image",
        "every node at every start",
        "nemodeploy image pull",
        warns=True,
    ),
    "checkpoint missing": Fault(
        lambda b: b.real(checkpoints={L70: {"hf": "/no/such"}}),
        HF,
        "checkpoint",
        "nothing at /no/such",
        "hf download nvidia/",
    ),
    "checkpoint of pointers": Fault(
        lambda b: b.checkpoint(L70, "hf", {"config.json": "{}", "model.safetensors": POINTER}),
        HF,
        "checkpoint",
        "git-lfs pointers",
        "git lfs pull",
    ),
    "a file of a checkpoint missing": Fault(
        lambda b: b.checkpoint(
            L70,
            "hf",
            {
                "config.json": "{}",
                "a.safetensors": "x" * 2000,
                "model.safetensors.index.json": _index("a.safetensors", "b"),
            },
        ),
        HF,
        "checkpoint",
        "1 of 2 files are missing, b",
        "hf download",
    ),
    "checkpoint half downloaded": Fault(
        lambda b: b.checkpoint(L70, "hf", {"config.json": "{}", "a.safetensors.incomplete": "x" * 2000}),
        HF,
        "checkpoint",
        "half downloaded",
        "hf download",
    ),
    "checkpoint of another size": Fault(
        lambda b: b.checkpoint(L70, "hf", {"config.json": "{}", "a.safetensors": "x" * 2000}),
        HF,
        "checkpoint",
        "the model has 141.1 GB",
        "hf download",
    ),
    "checkpoint still an archive": Fault(
        lambda b: b.checkpoint(MODEL, "nemo", {"340b.nemo": "x" * 2000}),
        H100,
        "checkpoint",
        "the archive 340b.nemo",
        "tar -xf",
    ),
    "checkpoint of NeMo's without its configuration": Fault(
        lambda b: b.checkpoint(MODEL, "nemo", {"model_weights/x": "x"}), H100, "checkpoint", "no model_config.yaml", ""
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_with_what_to_do(bed: Bed, name: str) -> None:
    fault = FAULTS[name]
    try:
        fault.plant(bed)
        code, checks = bed.doctor(*fault.words)
    finally:
        fault.undo(bed)
    wanted = "warning" if fault.warns else "failed"
    found = [one for one in checks if one["name"] == fault.check and one["result"] == wanted]
    assert found, [one for one in checks if one["name"] == fault.check] or checks
    assert any(fault.says in one["says"] and fault.remedy in one["remedy"] for one in found), found
    assert code == (12 if any(one["result"] == "failed" for one in checks) else 0)


def test_a_good_site_has_nothing_against_it(bed: Bed) -> None:
    before = bed.jobs()
    for words in ((), H100, ("--profile", "cpu")):
        code, checks = bed.doctor(*words)
        assert (code, [one for one in checks if one["result"] == "failed"]) == (0, []), checks
    by_name = {one["name"]: one["result"] for one in checks}
    assert {by_name[name] for name in ("runtime", "image", "checkpoint")} == {"not applicable"}
    said = bed.site.run("doctor", "--profile", "h100x16")
    assert (said.returncode, "nothing stands against it" in said.stderr) == (0, True)
    assert bed.jobs() == before, "nothing was submitted"
    bed.set(root=str(bed.shared / "not/there/yet"))
    code, checks = bed.doctor()
    assert ("root", "failed") not in {(one["name"], one["result"]) for one in checks}
    assert not (bed.shared / "not").exists(), "nothing is left there"


def test_what_cannot_be_meant_is_refused(bed: Bed) -> None:
    for words in (("--model", "tiny"), ("nobody",), ("sandbox", "--cluster", "other"), ("--profile", "nope")):
        assert bed.site.run("doctor", *words).returncode == 2


def test_every_fault_that_is_planted_here_is_in_the_docs() -> None:
    text = (ROOT / "docs/sites.md").read_text()
    listed = re.findall(r"^\| ([^|]+?) \| `([^`]+)` \|", text, re.MULTILINE)
    assert listed == [(name, fault.check) for name, fault in FAULTS.items()]


def test_the_sites_of_the_docs_are_good_cluster_files(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/sites.md").read_text(), re.DOTALL)
    assert len(blocks) == 6
    for number, block in enumerate(blocks):
        path = tmp_path / f"{number}.yaml"
        path.write_text(block)
        assert validate(str(path), "cluster") == "cluster"


def test_a_checkpoint_is_looked_at_by_itself(bed: Bed) -> None:
    words = ("checkpoint", "check", L70, "--cluster", "sandbox")
    stand_in = bed.site.run(*words)
    assert (stand_in.returncode, "not applicable" in stand_in.stdout) == (0, True), stand_in.stderr
    directory = bed.checkpoint(L70, "hf", {"config.json": "{}", "model.safetensors": POINTER})
    done = bed.site.run(*words, "--json")
    assert done.returncode == 12, done.stderr
    document = json.loads(done.stdout)
    assert document["checks"][0]["remedy"] == f"cd {directory} && git lfs pull"
    assert bed.site.run(*words).returncode == 12
    for wrong in (("--kind", "nope"), ("--kind", "nemo"), ("--cluster", "nobody")):
        assert bed.site.run(*words, *wrong).returncode == 2
    elsewhere = bed.site.run(*words, "--path", "/no/such", "--kind", "hf")
    assert "there is nothing at /no/such" in elsewhere.stdout


def nothing_is_left(bed: Bed) -> None:
    assert bed.alive() == []
    assert not (bed.shared / "nemodeploy/deployments/doctor").exists()


def test_a_job_looks_at_the_very_nodes_and_leaves_nothing(bed: Bed) -> None:
    code, checks = bed.doctor(*H100, "--job")
    by_name = {one["name"]: one for one in checks}
    assert code == 0, checks
    assert by_name["gpus"]["says"] == "Slurm gave 8 on each node"
    for name in ("job", "root", "checkpoint", "program", "names", "port"):
        assert by_name[name]["result"] in ("ok", "not applicable"), by_name[name]
    nothing_is_left(bed)
    bed.set(root=str(bed.shared / "not/there/yet"))
    assert bed.doctor("--profile", "cpu", "--job")[0] == 0
    assert not (bed.shared / "not").exists()


def test_a_container_that_does_not_start_is_told_in_its_own_words(bed: Bed) -> None:
    bed.real(runtime="apptainer", images={"nemo-eval": "/no/such.sif"})
    code, checks = bed.doctor(*H100, "--job")
    (container,) = [one for one in checks if one["name"] == "container"]
    assert (code, container["result"]) == (12, "failed")
    assert [one["result"] for one in checks if one["name"] == "image"] == ["failed", "failed"], "here, and on the nodes"
    nothing_is_left(bed)


def test_a_runtime_that_a_module_may_bring_is_not_called_missing(bed: Bed) -> None:
    bed.real(runtime="apptainer", images={"nemo-eval": "/x.sif"}, modules=["apptainer/1.3"])
    _, checks = bed.doctor(*H100)
    (runtime,) = [one for one in checks if one["name"] == "runtime"]
    assert (runtime["result"], "a module may bring it" in runtime["says"]) == ("warning", True), runtime


@pytest.mark.parametrize(("word", "results"), [("bash", ["ok", "ok"]), ("/etc/passwd", ["warning", "failed"])])
def test_a_program_is_a_command_or_a_file_that_can_be_run(bed: Bed, word: str, results: list[str]) -> None:
    bed.real(runtime="none", programs={"nemo-eval": [word, "x"]})
    _, checks = bed.doctor(*H100, "--job")
    assert [one["result"] for one in checks if one["name"] == "program"] == results, "here, and on the nodes"


def test_a_job_that_is_refused_or_waits_too_long_is_told_and_taken_back(bed: Bed) -> None:
    bed.scontrol(f"nodename={EVERY_NODE}", "state=drain", "reason=flood")
    try:
        code, checks = bed.doctor(*H100, "--job", "--wait", "2s")
    finally:
        bed.resume()
    (job,) = [one for one in checks if one["name"] == "job"]
    assert (job["result"], "nothing after" in job["says"]) == ("no answer", True), job
    nothing_is_left(bed)
    bed.set(slurm={"partition": "batch", "extra_args": ["--reservation=r"]})
    code, checks = bed.doctor(*H100, "--job")
    (job,) = [one for one in checks if one["name"] == "job"]
    assert (code, "reservation is invalid" in job["says"]) == (12, True), job
    nothing_is_left(bed)


def test_whoever_goes_away_takes_the_job_along(bed: Bed) -> None:
    bed.scontrol(f"nodename={EVERY_NODE}", "state=drain", "reason=flood")
    try:
        with bed.site.start("doctor", "sandbox", *H100, "--job") as doctor:
            deadline = time.monotonic() + 30
            while not bed.alive():
                assert time.monotonic() < deadline
                time.sleep(0.2)
            doctor.terminate()
            time.sleep(0.1)
            doctor.terminate()  # impatience changes nothing
            assert doctor.wait(60) == 40
            doctor.communicate()
    finally:
        bed.resume()
    nothing_is_left(bed)
