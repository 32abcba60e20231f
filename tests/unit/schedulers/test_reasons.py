"""Every reason for which Slurm lets a job wait, and when none is called hopeless."""

from __future__ import annotations

from pathlib import Path

import pytest

from nemodeploy.schedulers import slurm_limits
from nemodeploy.schedulers.reasons import Heals, heals, instead_of, limit_of, meaning_of

# Of job_state_reason.c and its forerunners, Slurm 20.11 to 26.05.
KNOWN = Path(__file__).with_name("reasons.txt").read_text().split()

JOB = (
    "job JobId=7 Account=research QOS=small TimeLimit={time} Partition=batch NumNodes=2-2 "
    "{tres}=cpu=2,mem=2G,node=2,billing=2,gres/gpu=16 Socks/Node=*\n"
)
SAFE = "set AccountingStorageEnforce associations,limits,qos,safe\n"


def answer(*records: str, time: str = "01:00:00", tres: str = "TRES", settings: str = "") -> str:
    """What `slurm_limits.script` prints."""
    return JOB.format(time=time, tres=tres) + settings + "".join(f"record {record}\n" for record in records)


def qos(text: str, name: str = "small") -> str:
    return f"QOS\nQOS={name}(3)\n    {text}"


def account(text: str, partition: str = "") -> str:
    return f"Assoc\nClusterName=c Account=research UserName= Partition={partition} Priority=0 ID=3\n    {text}"


def test_every_reason_has_plain_words_and_what_never_heals_has_advice() -> None:
    for reason in KNOWN:
        assert meaning_of(reason), reason
        assert bool(instead_of(reason)) == (heals(reason) in (Heals.NEVER, Heals.PERHAPS) or bool(limit_of(reason)))


def test_limits_of_each_job_never_heal_and_no_other_limit_is_taken_for_one() -> None:
    own = [reason for reason in KNOWN if "PerJob" in reason or "PerNode" in reason or reason.startswith("QOSMin")]
    assert len(own) > 50
    assert {heals(reason) for reason in (*own, "AssocMaxCpuPerNode")} == {Heals.NEVER}
    shared = [reason for reason in KNOWN if limit_of(reason) and reason not in own]
    assert {heals(reason) for reason in shared} == {Heals.PERHAPS, Heals.BY_ITSELF}
    assert heals("QOSMaxFusionPerJob") is Heals.NEVER  # a newer Slurm's
    assert heals("SomethingNew") is Heals.BY_ITSELF


@pytest.mark.parametrize("text", ["", "slurm_load_jobs error: Unable to contact slurm controller", answer()])
def test_without_figures_no_job_is_hopeless(text: str) -> None:
    assert not [reason for reason in KNOWN if heals(reason) is not Heals.NEVER and slurm_limits.hopeless(reason, text)]


NEVER = "16 gres/gpu are asked for, and 8 allowed"


@pytest.mark.parametrize(
    ("reason", "text", "why"),
    [
        ("QOSGrpGRES", answer(qos("GrpTRES=cpu=N(0),gres/gpu=8(0)")), NEVER),
        ("QOSGrpGRES", answer(qos("GrpTRES=cpu=N(0),gres/gpu=8(0)"), tres="ReqTRES"), NEVER),
        ("QOSGrpGRES", answer(qos("GrpTRES=cpu=1(0),gres/gpu=16(16)")), ""),
        ("QOSGrpGRES", answer(qos("GrpTRES=gres/gpu=N(99)")), ""),
        # The partition's own QOS may be the one that counts.
        ("QOSGrpGRES", answer(qos("GrpTRES=gres/gpu=8(0)"), qos("GrpTRES=gres/gpu=64(64)", "part")), ""),
        ("QOSGrpGRES", answer(qos("GrpTRES=gres/gpu=8(0)"), qos("GrpTRES=gres/gpu=N(64)", "part")), NEVER),
        ("QOSMaxGRESPerUser", answer(qos("GrpTRES=gres/gpu=N(0)\n MaxTRESPU=gres/gpu=8(0)")), NEVER),
        ("QOSMaxGRESPerUser", answer(qos("GrpTRES=gres/gpu=8(0)\n MaxTRESPU=gres/gpu=32(32)")), ""),
        ("MaxGRESPerAccount", answer(qos("MaxTRESPA=gres/gpu=8(0)")), NEVER),
        ("QOSGrpMemLimit", answer(qos("GrpTRES=mem=2048(0)")), ""),
        ("QOSGrpMemLimit", answer(qos("GrpTRES=mem=2047(0)")), "2048 mem are asked for, and 2047 allowed"),
        ("AssocGrpNodeLimit", answer(account("GrpTRES=node=1(0)")), "2 node are asked for, and 1 allowed"),
        ("AssocGrpNodeLimit", answer(account("GrpTRES=node=1(0)", "batch")), "2 node are asked for, and 1 allowed"),
        ("AssocGrpNodeLimit", answer(account("GrpTRES=node=1(0)", "other")), ""),
        ("AssocGrpNodeLimit", answer(qos("GrpTRES=node=4(4)"), account("GrpTRES=node=1(0)")), ""),
        # 16 GPUs for an hour are 960 minutes.
        ("AssocGrpGRESMinutes", answer(account("GrpTRESMins=gres/gpu=9(9)")), "9 of 9 minutes of gres/gpu are spent"),
        ("AssocGrpGRESMinutes", answer(account("GrpTRESMins=gres/gpu=900(0)")), ""),
        (
            "AssocGrpGRESMinutes",
            answer(account("GrpTRESMins=gres/gpu=1000(41)"), settings=SAFE),
            "41 of 1000 minutes of gres/gpu are spent",
        ),
        ("AssocGrpGRESMinutes", answer(account("GrpTRESMins=gres/gpu=1000(40)"), settings=SAFE), ""),
        (
            "AssocGrpGRESMinutes",
            answer(account("GrpTRESMins=gres/gpu=9(9)"), settings="set PriorityUsageResetPeriod DAILY\n"),
            "",
        ),
        (
            "AssocGrpGRESMinutes",
            answer(account("GrpTRESMins=gres/gpu=9(10)"), settings="set PriorityDecayHalfLife 1-00:00:00\n"),
            "",
        ),
        (
            "AssocGrpGRESMinutes",
            answer(account("GrpTRESMins=gres/gpu=9(90)"), settings="set PriorityDecayHalfLife 7-00:00:00\n"),
            "90 of 9 minutes of gres/gpu are spent",
        ),
        ("QOSGrpWallLimit", answer(qos("GrpWall=60(60.00)")), "60 of 60 minutes of wall are spent"),
        ("QOSGrpWallLimit", answer(qos("GrpWall=60(59.00)")), ""),
        (
            "QOSGrpGRESRunMinutes",
            answer(qos("GrpTRESRunMins=gres/gpu=959(0)")),
            "960 minutes of gres/gpu are asked for, and 959 allowed",
        ),
        ("QOSGrpGRESRunMinutes", answer(qos("GrpTRESRunMins=gres/gpu=960(960)")), ""),
        ("QOSGrpGRESRunMinutes", answer(qos("GrpTRESRunMins=gres/gpu=9(0)"), time="UNLIMITED"), ""),
        ("QOSGrpUnknown", answer(qos("GrpTRES=gres/gpu=8(0)")), ""),
        ("AssocMaxJobsLimit", answer(account("GrpTRES=gres/gpu=8(0)")), ""),
    ],
)
def test_a_limit_of_many_is_hopeless_only_where_this_job_alone_exceeds_it(reason: str, text: str, why: str) -> None:
    found = slurm_limits.hopeless(reason, text)
    assert (found[0] if found else "") == (f"{reason}: {why}" if why else "")
    assert found is None or found[1] == instead_of(reason) != ""
