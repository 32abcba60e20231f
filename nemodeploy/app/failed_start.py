"""Why a start is given up, and what shows it."""

from __future__ import annotations

from nemodeploy.app import asking
from nemodeploy.app.explaining import advise
from nemodeploy.app.site import Site
from nemodeploy.core.diagnosis import Diagnosis
from nemodeploy.core.observation import RunDirectory
from nemodeploy.core.readiness import Seen

MUTE = 3  # good answers without text, one after another
LATE_S = 5  # so long without an answer is told


def why_mute(directory: RunDirectory) -> str:
    """In words, that a server answers without visible text; empty: it does not, or not often enough yet."""
    if directory.health is None or directory.health.mute < MUTE:
        return ""
    given = asking.only_unseen(directory.plan, directory.answer)
    return f"it answers, but only {given}: check the prompt's template and stop strings" if given else ""


def why_late(site: Site, last: Seen, said: str, startup_s: float) -> tuple[str, Diagnosis]:
    """What a start-up timeout ran out on. The logs are read before our own end writes into them."""
    health, found = last.directory.health, advise(site, last)
    within = f"{startup_s:.0f} s of start-up"
    if health and not health.generated and health.asked_s >= LATE_S:
        mute = f"it accepts requests and has not answered one in {health.asked_s} s"
        return f"no answer within {within}: {mute}", found
    return f"no answer within {within}, last {said}", found


def what_shows(directory: RunDirectory, found: Diagnosis) -> tuple[str, ...]:
    """What a server that listens and is not READY has answered last, as the job kept it; else the line of a log; else
    what a rank last said."""
    try:
        if directory.answer.strip():
            asking.recorded(directory.plan, directory.answer)
    except asking.NoAnswer as error:
        return (error.message,)
    health = directory.health
    return found.evidence or ((health.said,) if health and health.said else ())
