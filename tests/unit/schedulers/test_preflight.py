"""What a site's answers mean before anything is submitted. Texts as Slurm 22.05 and 24.11 print them."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from nemodeploy.adapters import resources
from nemodeploy.assembly import assemble
from nemodeploy.core import sections
from nemodeploy.core.checks import Verdict
from nemodeploy.core.plan import Plan
from nemodeploy.core.sections import Section
from nemodeploy.schedulers import slurm_gpus, slurm_survey
from nemodeploy.schedulers import slurm_preflight as preflight
from tests.unit.core.test_decode import draft

BATCH = (
    "PartitionName=batch AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL Default=YES MaxNodes=UNLIMITED "
    "MaxTime=1-00:00:00 State=UP TotalNodes=5"
)
SHORT = "PartitionName=short AllowAccounts=nlp,vision Default=NO MaxNodes=1 MaxTime=00:30:00 State=UP"
DOWN = "PartitionName=old AllowAccounts=ALL Default=NO MaxNodes=UNLIMITED MaxTime=UNLIMITED State=DOWN"
NODES = "batch|2|gpu:h100:8(S:0-1)\nbatch|4|gpu:a100:4\nbatch|9|(null)\nshort|2|gpu:h100:8\nold|8|gpu:h100:8\n"
NOT_NOW = (1, "allocation failure: Requested node configuration is not available")
STARTS = "sbatch: Job 77 to start at 2026-11-21T14:32:10 using 128 processors on nodes h100-[1-2] in partition batch"


def plan(*words: str, nodes: int = 2, time_s: int = 14400) -> Plan:
    made, _ = assemble(draft(), resources.templates())
    return replace(made, submit_options=words, layout=replace(made.layout, nodes=nodes), time_s=time_s)


def answers(test: tuple[int, str] = (0, STARTS), partitions: int = 0, nodes: str = NODES) -> dict[str, Section]:
    return {
        "partitions": Section(status=partitions, text="\n".join((BATCH, SHORT, DOWN))),
        "nodes": Section(status=0, text=nodes),
        "test": Section(status=test[0], text=test[1]),
    }


def problems(wanted: Plan, **more: object) -> list[str]:
    return [what for what, _ in preflight.judge(wanted, answers(**more)).problems]  # type: ignore[arg-type]


def test_a_partition_that_has_it_all_is_said_with_the_start() -> None:
    found = preflight.judge(plan("--partition=batch", "--gpus-per-node=h100:8"), answers())
    assert found.problems == ()
    assert found.says == "partition batch allows 2 nodes for 04:00:00 · would start at 14:32 (the cluster's clock)"


@pytest.mark.parametrize(
    ("words", "more", "what"),
    [
        (("--partition=nope",), {}, "there is no partition nope"),
        (("--partition=old",), {}, "partition old is DOWN"),
        (("--partition=short",), {}, "partition short allows 00:30:00, and the job asks for 04:00:00"),
        (("--partition=short",), {"time_s": 600}, "partition short allows 1 nodes, and the job asks for 2"),
        (("--gpus-per-node=h100:8",), {"nodes": 3}, "partition batch has 2 nodes with 8 h100, and the job needs 3"),
        (("--gpus-per-node=b200:8",), {}, "partition batch has 0 nodes with 8 b200, and the job needs 2"),
        (("--gres=gpu:a100:8",), {}, "partition batch has 0 nodes with 8 a100, and the job needs 2"),
    ],
)
def test_what_stands_against_it_is_named(words: tuple[str, ...], more: dict[str, int], what: str) -> None:
    assert what in problems(plan(*words, **more), test=NOT_NOW)
    assert problems(plan(*words, **more)) == [], "what Slurm itself says yes to is not refused by its tables"


@pytest.mark.parametrize(
    "words",
    [
        ("--partition=short,batch", "--gpus-per-node=h100:8"),
        ("-pbatch",),
        ("-p", "batch"),
        ("--gpus-per-node=8",),
        ("--constraint=h100",),
        ("--account=anything",),
    ],
)
def test_one_partition_that_can_is_enough(words: tuple[str, ...]) -> None:
    assert problems(plan(*words)) == []


def test_a_refusal_of_the_very_script_counts_when_nothing_else_was_found() -> None:
    refused = (1, "allocation failure: Invalid feature specification")
    assert problems(plan(), test=refused) == ["Slurm would refuse the job: Invalid feature specification"]
    assert problems(plan("--partition=nope"), test=refused) == ["there is no partition nope"]


@pytest.mark.parametrize(
    "test",
    [
        (1, "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"),
        (1, "allocation failure: Unable to contact slurm controller (connect failure)"),
        (124, ""),
        (127, "sh: sbatch: not found"),
    ],
)
def test_no_answer_stands_against_nothing(test: tuple[int, str]) -> None:
    assert problems(plan(), test=test) == []
    found = preflight.judge(plan("--partition=nope"), answers(test=test, partitions=1))
    assert found.problems == ()
    assert found.says == "the site did not answer the questions before the queue; going on"


def test_a_plug_ins_words_come_with_the_key_and_what_the_site_has() -> None:
    said = "sbatch: error: You must specify a QOS\nallocation failure: Unspecified error\n"
    said += "nemodeploy-assoc|lab|normal,long\n"
    found = preflight.judge(plan(), answers(test=(1, said))).problems
    assert found == (
        (
            "Slurm would refuse the job: You must specify a QOS; Unspecified error",
            "set slurm.qos in the cluster file: one of normal, long",
        ),
    )


@pytest.mark.parametrize(
    "said",
    [
        "allocation failure: Requested node configuration is not available",
        "allocation failure: Required node not available (down, drained or reserved)",
        "sbatch: error: Batch job submission failed: Requested partition configuration not available now",
        "This site's sbatch does not know --test-only",
    ],
)
def test_a_no_for_the_moment_or_from_a_wrapper_stands_against_nothing(said: str) -> None:
    assert problems(plan("--gpus-per-node=h100:8"), test=(1, said)) == []


def test_a_site_that_counts_no_gpus_says_nothing_of_them() -> None:
    assert problems(plan("--gpus-per-node=8"), nodes="batch|5|(null)\n") == []


def test_the_jobs_own_files_are_tried_and_do_not_stay() -> None:
    text = preflight.parts(plan(), {"submit.sh": "x", "nemo_inference.sbatch": "y"})["test"]
    assert "--test-only" in text
    assert 'rm -rf "$d"' in text


@pytest.mark.parametrize(
    ("words", "status", "asked"),
    [
        ("--gpus-per-node=h100:8", 0, []),  # Slurm itself has looked for the type
        ("--gpus-per-node=h100:8", 1, ["scontrol", "sinfo"]),
        ("--gpus-per-node=8", 0, ["scontrol", "sinfo"]),
    ],
)
def test_slurms_tables_are_asked_for_where_its_yes_is_not_enough(
    tmp_path: Path, words: str, status: int, asked: list[str]
) -> None:
    for name in ("scontrol", "sinfo"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {name} >>{tmp_path}/calls\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "calls").write_text("")
    text = sections.script("n0", preflight.parts(of_type("h100", words), {"submit.sh": f"exit {status}\n"}))
    path = f"{tmp_path}:{os.environ['PATH']}"
    subprocess.run(["sh"], input=text, text=True, check=True, capture_output=True, env={"PATH": path})
    assert (tmp_path / "calls").read_text().split() == asked


A100_ONLY = "batch|2|gpu:a100:8|(null)\n"
MIXED = "batch|2|gpu:a100:8|(null)\nbatch|2|gpu:h100:8|(null)\n"
UNTYPED = "batch|2|gpu:8|ib\n"


def of_type(kind: str, *words: str, listed: tuple[str, ...] = (), memory_gib: float = 79.0) -> Plan:
    made = plan(*(words or ("--gpus-per-node=8",)))
    sources = {key: value for key, value in made.sources.items() if not key.startswith("gpus.")}
    sources |= {f"gpus.{one}.request": "site.yaml" for one in listed}
    memory = replace(made.memory, total_gib_per_gpu=memory_gib)
    return replace(made, gpu_type=kind, sources=sources, memory=memory)


@pytest.mark.parametrize(
    ("wanted", "nodes", "what", "instead"),
    [
        (of_type("b200"), A100_ONLY, "partition batch has no b200 GPUs", "there is gpu:a100:8"),
        (of_type("b200", listed=("a100",)), A100_ONLY, "has no b200 GPUs", "the cluster file lists a100"),
        (of_type("b200", listed=("a100",)), UNTYPED, "the cluster file lists no b200 GPUs", "there is gpu:8"),
        (of_type("h100"), MIXED, "has other GPUs besides h100", 'request: "--gpus-per-node=h100:8"'),
        (of_type("h200"), "batch|2|gpu:gh200:8|(null)\n", "has no h200 GPUs", "gpu:gh200:8"),
        (of_type("a100-40g", memory_gib=39.0), A100_ONLY, "has no a100-40g GPUs", "gpu:a100:8"),
        (of_type("b200"), "batch|2|gpu:8|h100,ib\n", "has no b200 GPUs", "with the features h100, ib"),
        (of_type("b200", "--gres=gpu:8"), A100_ONLY, "has no b200 GPUs", "gpu:a100:8"),
    ],
)
def test_any_gpu_is_not_asked_for_where_slurm_could_grant_another(
    wanted: Plan, nodes: str, what: str, instead: str
) -> None:
    ((said, remedy),) = preflight.judge(wanted, answers(nodes=nodes)).problems  # Slurm itself says yes to it
    assert what in said
    assert instead in remedy
    rows = "".join(
        f"{line[: line.rindex('|')]}|idle|64|1000|{line.rpartition('|')[2]}\n" for line in nodes.splitlines()
    )
    texts = dict.fromkeys(slurm_survey.parts(), Section(status=0, text=""))
    texts |= {"slurm.version": Section(0, "slurm 24.11.5"), "slurm.partitions": Section(0, BATCH)}
    checks = list(slurm_survey.judge(slurm_survey.parse({**texts, "slurm.nodes": Section(0, rows)}), wanted, "batch"))
    assert any(what in one.says and one.verdict is Verdict.FAILED for one in checks), checks


@pytest.mark.parametrize(
    ("wanted", "nodes"),
    [
        (of_type("h100"), "batch|2|gpu:nvidia_h100_80gb_hbm3:8|(null)\n"),
        (of_type("h100"), "batch|2|gpu:8|h100\n"),
        (of_type("h100"), "batch|2|gpu:h100:8|x\nbatch|2|gpu:a100:4|x\n"),  # too few to be granted
        (of_type("b200", listed=("b200",)), A100_ONLY),  # the owner of the cluster file says so
        (of_type("h100", "--gpus-per-node=8", "--constraint=h100"), MIXED),
        (of_type("h100", "--gpus-per-node=h100:8"), MIXED),
        (of_type("b200"), UNTYPED),
        (of_type("b200"), "batch|2|vgpu:a100:8|(null)\n"),
        (of_type("b200"), ""),
    ],
)
def test_any_gpu_is_asked_for_where_all_are_of_the_type_or_the_file_says_so(wanted: Plan, nodes: str) -> None:
    assert preflight.judge(wanted, answers(nodes=nodes)).problems == ()


def test_a_site_that_does_not_name_its_gpus_is_said_to() -> None:
    said = "Slurm does not say whether its GPUs are b200"
    assert said in preflight.judge(of_type("b200"), answers(nodes=UNTYPED)).says
    assert said not in preflight.judge(of_type("b200", listed=("b200",)), answers(nodes=UNTYPED)).says
    assert said not in preflight.judge(of_type("a100"), answers(nodes=A100_ONLY)).says


@pytest.mark.parametrize(
    ("text", "gpus"),
    [
        ("JobId=7\n   JOB_GRES=gpu:a100:8\n     Nodes=a CPU_IDs=0 Mem=0 GRES=gpu:a100:4(IDX:0-3)\n", {"a100": 8}),
        ("   JOB_GRES=gpu:8\n", {"": 8}),
        ("   Nodes=a[1-2] GRES=gpu:h100:4(IDX:0-3)\n   Nodes=b GRES=gpu:a100:2(IDX:0-1)\n", {"h100": 4, "a100": 2}),
        ("slurm_load_jobs error: Invalid job id specified\n", {}),
        ("   JOB_GRES=(null)\n   TresPerNode=gres:gpu:8\n", {}),
    ],
)
def test_what_slurm_granted_is_read_as_it_says_it(text: str, gpus: dict[str, int]) -> None:
    assert slurm_gpus.granted(text) == gpus
