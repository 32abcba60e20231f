"""Why Slurm lets a job wait, in plain words, and what becomes of it: total for Slurm 20.11 to 26.05.

Source: job_state_reason.c and acct_policy.c of Slurm 26.05. Reasons that name a limit are read by their grammar, so
those of a newer Slurm are understood, too.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass


class Heals(enum.Enum):
    """What ends the wait."""

    BY_ITSELF = "by itself"  # when other jobs end or a time comes
    BY_OTHERS = "by others"  # when a person or the site does something
    PERHAPS = "perhaps"  # not where this job alone exceeds the limit; Slurm's figures tell
    NEVER = "never"  # the job must ask for something else


_BY_ITSELF = {
    "None": "just submitted",
    "Priority": "other jobs come first",
    "Resources": "waiting for free nodes",
    "BeginTime": "its begin time has not come",
    "ReqNodeNotAvail": "a node it needs is not available",
    "Dependency": "waiting for an earlier job of the same name",
    "PartitionNodeLimit": "more nodes than the partition allows",  # nodes that are down for now count, too
    "PartitionConfig": "the partition cannot run it for now",
    "NodeDown": "a node it needs is down",
    "Licenses": "a licence it needs is in use",
    "Reservation": "its reservation has not begun",
    "Prolog": "its nodes are being prepared",
    "Cleaning": "its nodes are being cleaned up",
    "SchedDefer": "Slurm looks at it a little later",
    "Constraints": "no node with the features it needs is free",
    "JobArrayTaskLimit": "a limit of its job array is reached",
    "BurstBufferResources": "storage is being prepared for it",
    "BurstBufferStageIn": "storage is being prepared for it",
    "FedJobLock": "the clusters of the federation agree on who runs it",
    "NvidiaImexChannels": "no channel for memory between nodes is free",
    "MpiPortsBusy": "no port for its MPI ranks is free",
    "MaxPoweredUpNodes": "as many nodes as the site allows are powered up",
    "PowerNotAvail": "the site has no power left for it now",
    "PowerReserved": "the site keeps its power for others now",
    "AssociationJobLimit": "your account runs as many jobs as it may",
    "AssociationResourceLimit": "your account uses as much as it may",
    "QOSJobLimit": "the QOS runs as many jobs as it may",
    "QOSResourceLimit": "the QOS uses as much as it may",
    "AccountingPolicy": "a limit of your account or QOS is reached",
}
_BY_OTHERS = {
    "JobHeldUser": "held by the user",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition takes no jobs now",
    "FrontEndDown": "the site's front end is down",
    "BlockFreeAction": "its nodes are being freed",
    "BlockMaxError": "its nodes have failed too often",
    "SystemFailure": "something in Slurm or its file system failed",
    "InactiveLimit": "a limit of the site was reached",
    "AssociationTimeLimit": "the time of your account is used up",
    "QOSTimeLimit": "the time of the QOS is used up",
    "QOSUsageThreshold": "your account has used too much for this QOS",
    # What Slurm says of jobs that have ended; one that is queued again may keep it for a moment.
    "JobLaunchFailure": "its launch failed",
    "NonZeroExitCode": "its last run failed",
    "RaisedSignal": "its last run ended by a signal",
    "TimeLimit": "its last run reached its time limit",
    "OutOfMemory": "its last run had too little memory",
    "DeadLine": "its deadline passed",
    "InvalidReason": "Slurm gives no reason",
}
_NEVER = {
    "PartitionTimeLimit": ("longer than the partition allows", "ask for less: --set time=01:00:00"),
    "BadConstraints": ("no node can ever satisfy it", "check slurm.extra_args and gpus: in the cluster file"),
    "MaxMemPerLimit": ("more memory than the partition allows", "less --mem in slurm.extra_args"),
    "DependencyNeverSatisfied": (
        "waits for a job that will never end well",
        "leave --dependency out of slurm.extra_args",
    ),
    "AccountNotAllowed": (
        "the account may not use this partition",
        "another slurm.account or slurm.partition in the cluster file",
    ),
    "InvalidAccount": (
        "there is no such account",
        "set slurm.account in the cluster file; sacctmgr show assoc user=$USER lists yours",
    ),
    "InvalidQOS": (
        "there is no such QOS",
        "set slurm.qos in the cluster file; sacctmgr show assoc user=$USER lists yours",
    ),
    "QOSNotAllowed": (
        "the QOS may not be used with this partition or account",
        "another slurm.qos, or another partition",
    ),
    "ReservationDeleted": ("its reservation was deleted", "another slurm.reservation, or none"),
    "ReservationInvalid": ("its reservation may not be used", "another slurm.reservation, or none"),
    "BurstBufferOperation": (
        "the site's storage for it failed; Slurm holds it",
        "ask the site about its burst buffer",
    ),
    "JobHeldAdmin": ("held by an administrator", "ask the site why it holds the job"),
    "JobHoldMaxRequeue": (
        "it was requeued too often; Slurm holds it",
        "nemodeploy logs shows why it did not start; ask the site",
    ),
    "launch failed requeued held": (
        "its launch failed; Slurm holds it",
        "nemodeploy logs shows why; ask the site about that node",
    ),
}
REASONS: Mapping[str, str] = {**_BY_ITSELF, **_BY_OTHERS, **{key: meaning for key, (meaning, _) in _NEVER.items()}}
NEVER_HEALS: Mapping[str, str] = {key: instead for key, (_, instead) in _NEVER.items()}
# Beginnings of what Slurm says in many forms.
_KINDS = (
    ("ReqNodeNotAvail", "a node it needs is not available"),
    ("BurstBuffer", "storage is being prepared for it"),
    ("Nodes required for job are", "nodes it needs are down, drained or reserved"),
)
_LIMIT = re.compile(
    r"(?P<of>QOS|Assoc)?(?P<kind>Grp|Max|Min)(?P<what>[A-Za-z]+?)(?P<unit>RunMinutes|RunMins|Minutes)?"
    r"(?:Per(?P<per>Job|Node|User|Account))?(?:Limit|NotSatisfied)?"
)
_JOBS = ("Job", "Jobs", "SubmitJob", "SubmitJobs")
# What is counted, by Slurm's word in a reason: the beginning of its name among a job's resources, and our words.
_COUNTED = {
    "cpu": ("cpu", "CPUs"),
    "mem": ("mem", "memory"),
    "memory": ("mem", "memory"),
    "node": ("node", "nodes"),
    "gres": ("gres/", "GPUs"),
    "billing": ("billing", "billing units"),
    "license": ("license/", "licences"),
    "energy": ("energy", "energy"),
    "bb": ("bb/", "burst buffer"),
    "wall": ("wall", "time"),
    "wallduration": ("wall", "time"),
    "unknown": ("", "something the site counts"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """A limit as a reason names it. `of`: QOS, Assoc; `per`: Job, Node, User, Account; empty: all together.

    `resource`: the beginning of its name among a job's resources; `unit`: Minutes (a budget), Run (what runs may still
    use), or empty (a number at a time).
    """

    of: str
    least: bool
    resource: str
    words: str
    unit: str
    per: str
    jobs: bool

    @property
    def heals(self) -> Heals:
        """A limit of each job never heals for this one; one of many jobs together does, unless it alone exceeds it."""
        if self.least or self.per in ("Job", "Node"):
            return Heals.NEVER
        return Heals.BY_ITSELF if self.jobs else Heals.PERHAPS

    @property
    def owner(self) -> str:
        """Whose limit it is, in words."""
        return "your account" if self.of == "Assoc" or self.per == "Account" else "the QOS"

    @property
    def meaning(self) -> str:
        """What it says, in plain words."""
        what = f"{self.words.removesuffix('s')} minutes" if self.unit and self.resource != "wall" else self.words
        if self.least:
            return f"{self.owner} wants more {self.words} in a job"
        if self.heals is Heals.NEVER:
            return f"more {what} than {self.owner} allows per {self.per.lower()}"
        if self.unit == "Minutes" or self.resource == "wall":
            return (
                f"{self.owner} has too few {what} left"
                if what.endswith("s")
                else f"{self.owner} has too little {what} left"
            )
        each = f" for each {self.per.lower()}" if self.per in ("User", "Account") else ""
        others = "your other jobs" if self.per == "User" else f"others of {self.owner.replace('your', 'the')}"
        counted = "jobs" if self.jobs else what
        return f"the limit of {counted} of {self.owner}{each} is reached; it starts when {others} end"

    @property
    def instead(self) -> str:
        """What to ask for where it never heals."""
        key = "slurm.account" if self.owner == "your account" else "slurm.qos"
        if self.least:
            return f"another {key} in the cluster file, for jobs of this size"
        if self.unit == "Minutes" and not self.per:
            return f"another {key} in the cluster file, or ask the site for more"
        less = {"gres/": "fewer GPUs (another --profile)", "node": "fewer --nodes", "wall": "ask for less: --time"}
        time = ", or less --time" if self.unit and self.resource != "wall" else ""
        other = f"{'fewer' if self.words.endswith('s') else 'less'} {self.words}"
        return f"{less.get(self.resource, other)}{time}, or another {key} in the cluster file"


def limit_of(reason: str) -> Limit | None:
    """The limit that a reason names; None: it names none."""
    found = None if reason in REASONS else _LIMIT.fullmatch(reason)
    if not found:
        return None
    what = found["what"]
    resource, words = _COUNTED.get(what.lower(), ("", what))
    # Slurm's names without a prefix are all limits of a QOS; AssocMaxJobs counts those of a user.
    return Limit(
        of=found["of"] or "QOS",
        least=found["kind"] == "Min",
        resource=resource,
        words=words,
        unit={"Minutes": "Minutes", None: ""}.get(found["unit"], "Run"),
        per=found["per"] or "",
        jobs=what in _JOBS,
    )


def heals(reason: str) -> Heals:
    """What ends a wait for this reason. One that no table knows is waited for: no job is called hopeless wrongly."""
    if reason in NEVER_HEALS:
        return Heals.NEVER
    limit = limit_of(reason)
    if limit:
        return limit.heals
    return Heals.BY_OTHERS if reason in _BY_OTHERS else Heals.BY_ITSELF


def meaning_of(reason: str) -> str:
    """A reason in plain words; empty: it is not known."""
    limit = limit_of(reason)
    of_its_kind = (text for beginning, text in _KINDS if reason.startswith(beginning))
    return REASONS.get(reason) or (limit.meaning if limit else next(of_its_kind, ""))


def instead_of(reason: str) -> str:
    """What to ask for instead, where a reason never heals."""
    limit = limit_of(reason)
    return NEVER_HEALS.get(reason) or (limit.instead if limit else "")
