"""What a site's answers mean before anything is submitted. Texts as Slurm 22.05 and 24.11 print them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nemodeploy.adapters import resources
from nemodeploy.assembly import assemble
from nemodeploy.core.plan import Plan
from nemodeploy.core.sections import Section
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
    text = preflight.parts({"submit.sh": "x", "nemo_inference.sbatch": "y"})["test"]
    assert "--test-only" in text
    assert 'rm -rf "$d"' in text
