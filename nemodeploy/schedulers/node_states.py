"""What a state of a node means for a job that wants it: Slurm's own words, flags and suffixes, all of them.

Source: slurm_protocol_defs.c (node_state_string, node_state_flags) and sinfo(1), Slurm 20.11 to 26.05. sinfo says
`idle~`, scontrol `IDLE+CLOUD+POWERED_DOWN`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping


class Use(enum.IntEnum):
    """Whether a node runs jobs, the best first: now or when others have ended; after it has come back by itself; or not
    before a person does something."""

    NOW = 0
    LATER = 1
    NO = 2


SUFFIXES: Mapping[str, tuple[Use, str]] = {
    "*": (Use.NO, "not responding"),
    "~": (Use.NOW, "powered off"),  # a job powers it up
    "#": (Use.NOW, "powering up"),
    "!": (Use.LATER, "about to power down"),
    "%": (Use.LATER, "powering down"),
    "$": (Use.NO, "in maintenance"),
    "@": (Use.LATER, "about to reboot"),
    "^": (Use.LATER, "rebooting"),
    "-": (Use.NOW, "planned for another job"),
    "+": (Use.NOW, "with jobs that are ending"),
}
_NOW = (
    *("idle", "mixed", "mix", "allocated", "alloc", "completing", "comp", "planned", "plnd", "cloud", "dynamic_norm"),
    *("powered_down", "powering_up", "power_up", "pow_up"),
)
_LATER = (
    *("reserved", "resv", "blocked", "block", "reboot", "boot", "reboot_requested", "reboot_issued", "reboot_cancel"),
    *("cancel_reboot", "power_down", "pow_dn", "powering_down", "power_drain", "resume", "undrain", "perfctrs", "npc"),
)
_NO = (
    *("down", "error", "unknown", "unk", "future", "futr", "inval", "invalid", "invalid_reg", "fail", "failing"),
    *("failg", "drain", "drained", "draining", "drng", "maint", "maintenance", "not_responding", "external"),
    *("dynamic_future", "no_respond"),
)
WORDS: Mapping[str, Use] = {
    **dict.fromkeys(_NOW, Use.NOW),
    **dict.fromkeys(_LATER, Use.LATER),
    **dict.fromkeys(_NO, Use.NO),
}


def use_of(state: str) -> Use:
    """The worst of what a state says. A word that no table knows is not counted on."""
    word = state.lower()
    kept = word.rstrip("".join(SUFFIXES))
    flags = [SUFFIXES[mark][0] for mark in word[len(kept) :]]
    return max([*flags, *(WORDS.get(one, Use.NO) for one in kept.split("+"))])


def words_of(state: str) -> str:
    """A state in words for people: `idle, not responding`."""
    word = state.lower()
    kept = word.rstrip("".join(SUFFIXES))
    said = [one.replace("_", " ") for one in kept.split("+")]
    return ", ".join((*said, *(SUFFIXES[mark][1] for mark in word[len(kept) :])))
