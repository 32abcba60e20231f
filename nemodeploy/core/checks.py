"""What was found when a site was looked at: one line a question, with what to do about it."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Verdict(enum.Enum):
    """How a check went. Only a failure keeps a deployment from working."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    NOT_APPLICABLE = "not applicable"
    UNANSWERED = "no answer"


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """A question, its answer, and where it is no good one, what to type or to ask for."""

    name: str
    verdict: Verdict
    says: str
    remedy: str = ""


def ok(name: str, says: str) -> Check:
    """As it should be."""
    return Check(name=name, verdict=Verdict.OK, says=says)


def warning(name: str, says: str, remedy: str) -> Check:
    """It works, and could be better or surprise somebody."""
    return Check(name=name, verdict=Verdict.WARNING, says=says, remedy=remedy)


def failed(name: str, says: str, remedy: str) -> Check:
    """A deployment would not work."""
    return Check(name=name, verdict=Verdict.FAILED, says=says, remedy=remedy)


def not_applicable(name: str, says: str) -> Check:
    """It does not come up here."""
    return Check(name=name, verdict=Verdict.NOT_APPLICABLE, says=says)


def unanswered(name: str, says: str, remedy: str = "") -> Check:
    """Whoever was asked did not say."""
    return Check(name=name, verdict=Verdict.UNANSWERED, says=says, remedy=remedy)
