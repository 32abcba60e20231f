"""Why a deployment ended: the first cause, and who asked for it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from nemodeploy.app.explaining import explain
from nemodeploy.app.site import Site
from nemodeploy.core.observation import Exit, Final, RunDirectory
from nemodeploy.core.readiness import Seen
from nemodeploy.core.witnesses import Trace
from nemodeploy.values import Epoch, Token

TOKEN = Token("nd-demo-01m7ykpr9z67k4g5wp74nrf1nm")
TAKEN = Exit(epoch=Epoch("7", 0), cause="cancelled", rank=None, rank_status=None, status=0, port=1, elapsed_s=5)
WHY = "no answer within 60 s of start-up, last joining"
PROLOG = Trace(state="CANCELLED", by="root (0)", failed="h100-2: Prolog error")
SITE = cast(
    Site,
    SimpleNamespace(
        cluster=SimpleNamespace(scheduler="slurm", command=lambda *words: " ".join(words)), logs_of=lambda token: {}
    ),
)


def kept(said: str) -> Final:
    return Final(job_id="7", restart=0, told_by="Slurm", state=said.split()[0], said=said, nodes="", elapsed_s=None)


@pytest.mark.parametrize(
    ("directory", "trace", "text"),
    [
        ({"exit": TAKEN, "revoked": True, "revoked_why": WHY}, Trace(), WHY),
        ({"exit": TAKEN, "revoked": True}, Trace(), "taken down with nemodeploy"),
        ({"exit": TAKEN, "final": kept("NODE_FAIL")}, Trace(), "a node failed, Slurm says NODE_FAIL"),
        (
            {"exit": replace(TAKEN, cause="preempted")},
            Trace(state="PREEMPTED"),
            "a job of higher priority took its nodes, Slurm says PREEMPTED",
        ),
        ({"exit": replace(TAKEN, cause="preempted")}, Trace(), "Slurm had told it to end"),
        ({}, Trace(state="PREEMPTED"), "a job of higher priority took its nodes, Slurm says PREEMPTED"),
        ({}, Trace(state="CANCELLED", by="ada (1000)"), "cancelled by ada (1000), not through nemodeploy"),
        ({}, PROLOG, "it never began: h100-2: Prolog error"),
        (
            {"final": kept("CANCELLED by root (0): h100-2: Prolog error")},
            Trace(),
            "it never began: h100-2: Prolog error",
        ),
    ],
)
def test_the_first_cause_is_told(directory: dict[str, Any], trace: Trace, text: str) -> None:
    seen = Seen(
        directory=RunDirectory(token=TOKEN, **directory), answered=True, row=None, job_id="7", trace=trace, gone=True
    )
    why = explain(SITE, seen)
    assert why.text.startswith(text)
    assert why.shown.line == ""
