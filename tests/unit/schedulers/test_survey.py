"""Reading what Slurm says about its nodes; the whole survey is put to a real Slurm in the doctor's tests."""

import pytest

from nemodeploy.core.sections import Section
from nemodeploy.schedulers import slurm_survey


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
