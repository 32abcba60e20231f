"""Slurm's own words: what sbatch says when it submits nothing, and what stands in a job's log when something fails."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from nemodeploy.core.diagnosis import Cause
from nemodeploy.core.foreign import wash_line
from nemodeploy.schedulers.base import ENDS


def _said(key: str, pattern: str, state: str) -> Cause:
    """A line in which Slurm says the same as by the state that the job ends in."""
    meaning, advice = ENDS[state]
    return Cause(key=key, pattern=pattern, meaning=meaning, advice=advice)


CAUSES = (
    _said("time-limit", r"DUE TO TIME LIMIT", "TIMEOUT"),
    _said("preempted", r"DUE TO PREEMPTION", "PREEMPTED"),
    _said("node-failure", r"DUE TO NODE FAILURE|Node failure on", "NODE_FAIL"),
    Cause(
        key="pmix",
        pattern=r"plugin name for mpi|Invalid MPI type|[Uu]nable to load .*pmix|PMIX ERROR.*psec",
        meaning="this Slurm cannot start MPI programs in that way",
        advice="srun --mpi=list on the login host shows what it can",
    ),
    Cause(
        key="no-program",
        pattern=r"execve\(\): (?!(?:\S*/)?bash:).*No such file|Can not execute",
        meaning="the program that the step starts is not on the node",
        advice="check programs: in the cluster file as the nodes see them",
    ),
    Cause(
        key="cancelled",
        pattern=r"CANCELLED AT (?!.*DUE)|DUE TO JOB REQUEUE|DUE to SIGNAL",
        meaning="the job was cancelled",
        follower=True,
    ),
    Cause(
        key="step",
        pattern=r"Job step aborted|Unable to create step|task .*: (Exited with exit code|Killed)|FAILED \(non-zero",
        meaning="a rank ended and took the others along",
        advice="nemodeploy logs shows which one, and its last words",
        follower=True,
    ),
)

# How slurmctld's own verdicts on a job begin. What is missing here is in doubt and is looked up: a refusal that is read
# as a doubt costs half a minute, a lost reply read as a refusal costs a job. Source: slurm_errno.c, Slurm 26.05.
_VERDICT = re.compile(
    r"Invalid (?!authentication|job credential)|Access|No partition|User's group|More processors|Node count|MaxJobCount"
    r"|Job (size|script|violates|dependency|cannot be|--batch)|(Task|CPU) (count|distribution)|Memory (required|spec)"
    r"|Requested |Required |Immediate |Circular |Burst |Licenses |Pathname |Partition |Duplicate |System submissions "
    r"|Multiple partition |Only batch |Cannot request |Unable to contact slurm controller \(connect failure\)"
)
_TRANSPORT = re.compile(r"munge|auth|slurm_|unpack|timed out|receive|Connection|Zero Bytes", re.IGNORECASE)


def was_refused(status: int, error: str) -> bool:
    """Whether sbatch's end proves that no job was made: its own complaint before it asked, or slurmctld's verdict.

    A plugin of the site refuses with `Unspecified error`, which also stands for a reply that could not be read; it
    counts when the plugin gave a reason of its own.
    """
    if status not in (1, 255):
        return False
    said = [line.partition(": ")[2] for line in re.findall(r"^sbatch: (?:error|fatal): .+", error, re.MULTILINE)]
    verdicts = [line.partition("submission failed: ")[2] for line in said if "submission failed: " in line]
    reasons = [line for line in said if "submission failed: " not in line]
    if not verdicts:
        own = bool(reasons) or bool(re.search(r"^sbatch: (unrecognized|invalid) option", error, re.MULTILINE))
        return own and not any(map(_TRANSPORT.search, reasons))
    if verdicts[-1].startswith("Unspecified error"):
        return bool(reasons) and not any(map(_TRANSPORT.search, reasons))
    return bool(_VERDICT.match(verdicts[-1]))


def is_unreachable(error: str) -> bool:
    """Whether sbatch could not even connect to the controller."""
    return "(connect failure)" in error or bool(re.search("(Unable to|Could not) establish", error))


_SAID = re.compile(r"(?:allocation failure|sbatch): +(?:(?:error|fatal): +)?(?P<words>.+)")
_VERDICTS = ("allocation failure: ", "Batch job submission failed: ")
_NO_NEWS = re.compile(r"Try .*--help|sbatch: (debug|info|verbose)")


def refusal_words(text: str) -> tuple[str, ...]:
    """What sbatch said when it refused a job, and so a plug-in of the site: every line once, the verdict last."""
    reasons: list[str] = []
    verdicts: list[str] = []
    for line in map(wash_line, text.splitlines()):
        found = _SAID.match(line)
        if not found or _NO_NEWS.search(line):
            continue
        words = found["words"].strip()
        verdict = line.startswith(_VERDICTS[0]) or words.startswith(_VERDICTS)
        for beginning in _VERDICTS:
            words = words.removeprefix(beginning)
        (verdicts if verdict else reasons).append(words)
    return tuple(dict.fromkeys((*reasons, *verdicts)))


# Words of a refusal, and what to do. The first that matches counts.
_LISTS = "sacctmgr show assoc user=$USER format=account,qos lists yours"
_ADVICE = (
    (
        r"unrecognized option|invalid option|option '.*' (is ambiguous|requires)",
        "correct slurm.extra_args in the cluster file; sbatch --help on the login host lists the options",
    ),
    (
        r"invalid qos|\bqos\b.*(specif|permit|requir|need|must)|(specif|requir|need|want|must|missing).*\bqos\b",
        f"set slurm.qos in the cluster file; {_LISTS}",
    ),
    (r"\baccount\b", f"set slurm.account in the cluster file; {_LISTS}"),
    (r"qos", "fewer --nodes or less --time, or another slurm.qos in the cluster file"),
    (r"reservation", "another slurm.reservation in the cluster file, or none; scontrol show reservation lists them"),
    (r"not permitted|permission denied", "ask the site for the right to use it, or name another slurm.partition"),
    (
        r"partition configuration",
        "fewer --nodes or less --time; scontrol show partition on the login host says its limits",
    ),
    (r"partition", "set slurm.partition in the cluster file; sinfo on the login host lists them"),
    (r"gres|generic resource", "set gpus: in the cluster file to how this site asks for GPUs"),
    (r"time limit|--time\b|wall ?time", "ask for less: --time 01:00:00"),
    (r"node configuration", "no node has that many GPUs, CPUs or that much memory; compare with sinfo"),
    (r"feature|constraint", "set slurm.constraint in the cluster file; sinfo -o %f lists the features there are"),
)


def advice_on(error: str, choices: Mapping[str, Sequence[str]] = MappingProxyType({})) -> str:
    """What to do about sbatch's refusal; empty: its own words must do. `choices`: what the site has, by our key."""
    found = next((advice for pattern, advice in _ADVICE if re.search(pattern, error, re.IGNORECASE)), "")
    key = re.match(r"set (slurm\.\w+) ", found)
    there = choices.get(key[1], ()) if key else ()
    return f"{found.partition(';')[0]}: one of {', '.join(there)}" if there else found
