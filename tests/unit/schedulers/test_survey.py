"""Reading what Slurm says about its nodes; the whole survey is put to a real Slurm in the doctor's tests."""

import pytest

from nemodeploy.core.sections import Section
from nemodeploy.schedulers import node_states, slurm_survey
from nemodeploy.schedulers.node_states import Use


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("gpu:h100:8(S:0-1)", {"h100": 8}),
        ("gpu:8", {"": 8}),
        ("gpu:a100:no_consume:4", {"a100": 4}),
        ("gpu:1g.10gb:7,gpu:a100:1", {"1g.10gb": 7, "a100": 1}),  # a MIG type begins with a digit
        ("(null)", {}),
    ],
)
def test_the_gpus_of_a_node_by_type(gres: str, gpus: dict[str, int]) -> None:
    answers = dict.fromkeys(slurm_survey.parts(), Section(status=0, text=""))
    nodes = Section(status=0, text=f"batch|2|{gres}|idle|64|1000|(null)")
    assert dict(slurm_survey.parse({**answers, "slurm.nodes": nodes}).nodes[0].gpus) == gpus


def test_the_reason_is_what_slurm_says_and_not_the_banner_below_it() -> None:
    banner = "*****\n** RESTORE SLURMCTLD DAEMON TO SERVICE **\n*****\n"
    answers = dict.fromkeys(slurm_survey.parts(), Section(status=0, text=""))
    ping = Section(status=1, text="Slurmctld(primary) at login is DOWN\n" + banner)
    assert slurm_survey.parse({**answers, "slurm.ping": ping}).problem == "Slurmctld(primary) at login is DOWN"


@pytest.mark.parametrize(
    ("state", "use"),
    [
        *(
            (state, Use.NOW)
            for state in ("idle", "mixed", "allocated", "allocated+", "completing", "planned", "mixed-")
        ),
        *((state, Use.NOW) for state in ("idle~", "idle#", "IDLE+CLOUD+POWERED_DOWN", "IDLE+DYNAMIC_NORM", "alloc")),
        *((state, Use.LATER) for state in ("idle!", "idle%", "mixed@", "reboot^", "reserved", "idle+powering_down")),
        *((state, Use.NO) for state in ("idle*", "allocated*", "idle$", "drained", "draining@", "down~", "reboot*")),
        *((state, Use.NO) for state in ("MIXED+DRAIN", "IDLE+CLOUD+NOT_RESPONDING", "IDLE+MAINTENANCE+RESERVED")),
        *((state, Use.NO) for state in ("inval", "unknown*", "future", "", "?", "something-new")),
    ],
)
def test_every_state_of_a_node_tells_whether_it_runs_jobs(state: str, use: Use) -> None:
    assert node_states.use_of(state) is use


def test_every_flag_and_suffix_of_slurms_is_known() -> None:
    flags = """BLOCKED CLOUD COMPLETING DRAIN DYNAMIC_FUTURE DYNAMIC_NORM EXTERNAL INVALID_REG FAIL MAINTENANCE
        POWER_DOWN POWER_UP POWERED_DOWN REBOOT_REQUESTED REBOOT_ISSUED RESERVED RESUME NOT_RESPONDING PLANNED
        POWERING_UP POWERING_DOWN DOWN IDLE ALLOCATED ERROR MIXED FUTURE UNKNOWN"""
    assert {flag.lower() for flag in flags.split()} <= set(node_states.WORDS)
    assert set(node_states.SUFFIXES) == set("*~#!%$@^-+")


def checks(nodes: str, settings: str = "", sacct: int = 0) -> dict[str, tuple[str, str, str]]:
    """What `doctor` says of a site with these nodes, settings and end of sacct."""
    answers = dict.fromkeys(slurm_survey.parts(), Section(status=0, text=""))
    partition = Section(status=0, text="PartitionName=batch Default=YES State=UP MaxTime=UNLIMITED")
    told = {
        "slurm.version": Section(status=0, text="slurm 22.05.8"),
        "slurm.partitions": partition,
        "slurm.nodes": Section(status=0, text=nodes),
        "slurm.settings": Section(status=0, text=settings),
        "slurm.accounting": Section(status=sacct, text=""),
    }
    found = slurm_survey.judge(slurm_survey.parse({**answers, **told}), None, "")
    return {one.name: (one.verdict.value, one.says, one.remedy) for one in found}


def test_a_node_that_does_not_respond_is_not_up_and_one_that_powers_down_comes_back() -> None:
    row = "batch|2|gpu:h100:8|{}|64|1000|(null)\n"
    assert checks(row.format("idle*"))["nodes"][:2] == (
        "failed", "0 of the 2 nodes of batch are up, and the job needs 1 (2 idle, not responding)",
    )  # fmt: skip
    assert checks(row.format("idle%"))["nodes"][:2] == ("ok", "all 2 of batch are up (2 idle, powering down)")


def test_accounting_that_does_not_answer_is_not_missing() -> None:
    dbd = "AccountingStorageType = accounting_storage/slurmdbd\nAccountingStorageHost = db1\nMinJobAge = 30 sec\n"
    verdict, says, instead = checks("", dbd, 1)["accounting"]
    assert verdict == "warning"
    assert "sacct does not answer" in says
    assert "slurmdbd runs on db1" in instead
    _, says, instead = checks("", "AccountingStorageType = accounting_storage/none\nMinJobAge = 30 sec\n", 1)[
        "accounting"
    ]
    assert "no accounting" in says
    assert "ask for accounting" in instead
    assert checks("", dbd)["accounting"][1] == "sacct knows what has ended"


@pytest.mark.parametrize(
    ("rows", "accounts"),
    [
        (
            "far|normal|other|far\ncv|normal|mine|nlp\nnlp|normal,long|mine|nlp\n",
            {"nlp": ("normal", "long"), "cv": ("normal",)},
        ),
        ("cv|normal|mine|\n|normal|mine|\n", {"cv": ("normal",)}),
        ("nlp|a|mine|nlp\nnlp|a,b|mine|nlp\n", {"nlp": ("a", "b")}),  # once for each partition
        ("far|normal|other|far\n", None),
        ("", None),
    ],
)
def test_accounts_are_those_of_this_cluster_the_default_one_first(
    rows: str, accounts: dict[str, tuple[str, ...]] | None
) -> None:
    answers = dict.fromkeys(slurm_survey.parts(), Section(status=0, text=""))
    answers |= {"slurm.accounts": Section(0, rows), "slurm.settings": Section(0, "ClusterName             = Mine")}
    found = slurm_survey.parse(answers).accounts
    assert (found and list(found.items())) == (accounts and list(accounts.items()))
