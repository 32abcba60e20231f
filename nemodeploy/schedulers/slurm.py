"""Slurm: questions and the parsers of their answers, and a total table of its job states.

Tried on Slurm 22.05.8; the formats are the same from 20.11 to 26.05. No JSON: below 24.11 it cannot be trusted.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nemodeploy.core.spec import Spec

# Columns of `squeue -O` have a fixed width, so a value with any character in it stays in its own.
_COLUMNS = (
    ("JobID", 24),
    ("RestartCnt", 8),
    ("State", 24),
    ("Reason", 80),
    ("TimeUsed", 24),
    ("TimeLeft", 24),
    ("StartTime", 24),
    ("Name", 96),
    ("NodeList", 400),
)
# What nemodeploy decides itself: short options, and long ones that sbatch also takes abbreviated.
_SHORT = "JadoeWtDNnMi"
_LONG = (
    *("job-name", "array", "dependency", "output", "error", "input", "export", "export-file", "wrap", "wait", "time"),
    *("chdir", "nodes", "ntasks", "ntasks-per-node", "clusters", "signal", "requeue", "no-requeue", "test-only"),
    *("parsable", "uid", "gid", "hold", "open-mode", "time-min", "deadline", "het-group"),
)
_GPU_REQUEST = re.compile(r"(--gpus|--gpus-per-node|--gres|--tres-per-node|--constraint|-G|-C)(=.+|[A-Za-z0-9].*)?")
_ELAPSED = re.compile(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)")


class Life(enum.Enum):
    """What a Slurm state means for whoever holds the GPUs."""

    WAITING = "waiting"
    RUNNING = "running"
    PAUSED = "paused"
    ENDING = "ending"
    ENDED = "ended"
    UNKNOWN = "unknown"


# Source: slurm_protocol_defs.c of Slurm 26.05. What is not here is UNKNOWN, and unknown is alive.
LIFE: Mapping[str, Life] = {
    **dict.fromkeys(
        ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT"), Life.WAITING
    ),
    **dict.fromkeys(("RESV_DEL_HOLD", "POWER_UP_NODE"), Life.WAITING),
    **dict.fromkeys(("RUNNING", "RESIZING", "SIGNALING", "EXPEDITING"), Life.RUNNING),
    **dict.fromkeys(("SUSPENDED", "STOPPED"), Life.PAUSED),
    **dict.fromkeys(("COMPLETING", "STAGE_OUT"), Life.ENDING),
    **dict.fromkeys(("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "PREEMPTED"), Life.ENDED),
    **dict.fromkeys(("BOOT_FAIL", "DEADLINE", "OUT_OF_MEMORY"), Life.ENDED),
}

# Reasons in plain words; a job that waits for one of the last group waits for ever.
REASONS: Mapping[str, str] = {
    "None": "just submitted",
    "Priority": "other jobs come first",
    "Resources": "waiting for free nodes",
    "BeginTime": "its begin time has not come",
    "ReqNodeNotAvail": "a node it needs is not available",
    "Dependency": "waiting for an earlier job of the same name",
    "JobHeldUser": "held by the user",
    "JobHeldAdmin": "held by an administrator",
    "PartitionDown": "the partition is down",
    "PartitionTimeLimit": "longer than the partition allows",
    "PartitionNodeLimit": "more nodes than the partition allows",
    "BadConstraints": "no node can ever satisfy it",
    "DependencyNeverSatisfied": "waits for a job that will never end well",
    "AccountNotAllowed": "the account may not use this partition",
    "launch failed requeued held": "its launch failed; Slurm holds it",
}
NEVER_HEALS = frozenset(
    (
        *("PartitionTimeLimit", "PartitionNodeLimit", "BadConstraints", "DependencyNeverSatisfied"),
        *("AccountNotAllowed", "JobHeldAdmin", "launch failed requeued held"),
    )
)


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueRow:
    """One job as squeue shows it. Times in seconds; `start` is Slurm's own text, empty when it has no estimate."""

    job_id: str
    restart: int
    state: str
    reason: str
    elapsed_s: int | None
    left_s: int | None
    start: str
    name: str
    nodes: str

    @property
    def life(self) -> Life:
        """What the state means."""
        return LIFE.get(self.state, Life.UNKNOWN)

    @property
    def kind(self) -> str:
        """The same as a word."""
        return self.life.value

    @property
    def plain_reason(self) -> str:
        """Slurm's reason, with what it means."""
        meaning = REASONS.get(self.reason, "")
        return f"{self.reason}: {meaning}" if meaning else self.reason


class Slurm:
    """The scheduler of this house."""

    name = "slurm"
    script_template = "schedulers/slurm.sbatch.j2"
    submit_template = "schedulers/slurm.submit.sh.j2"

    def rules(self, spec: Spec) -> Sequence[tuple[str, str, str]]:
        """Options that would take the job's name, output or uniqueness away from us."""
        found = [
            ("slurm.extra_args", f"{word} is set by nemodeploy itself", "leave it out")
            for word in spec.slurm.extra_args
            if _is_ours(word)
        ]
        if not _GPU_REQUEST.fullmatch(spec.gpu_request):
            what = f"{spec.gpu_request!r} does not ask for GPUs"
            found.append((f"gpus.{spec.gpu.type}.request", what, "for example --gpus-per-node=h100:8"))
        return found

    def submit_words(self, spec: Spec) -> tuple[str, ...]:
        """The site's own words to sbatch; they beat the script's lines."""
        options = spec.slurm
        named = (("--partition", options.partition), ("--account", options.account))
        words = tuple(f"{option}={value}" for option, value in named if value)
        return (*words, spec.gpu_request, *options.extra_args)


def _is_ours(word: str) -> bool:
    """Whether an sbatch option would take the job's name, time, place or output away from us."""
    if not word.startswith("--"):
        return word[1:2] in _SHORT
    name = word[2:].partition("=")[0]
    return any(option.startswith(name) for option in _LONG)


def queue_script() -> str:
    """POSIX shell: every job of ours, one question to the controller. Ends with squeue's own status."""
    columns = ",".join(f"{name}:{width}" for name, width in _COLUMNS)
    return (
        f"rows=$(squeue --me --noheader --states=all -O '{columns}' 2>&1); status=$?\n"
        'if [ "$status" -ne 0 ]; then printf "%s\\n" "$rows"; exit "$status"; fi\n'
        'printf "%s\\n" "$rows" | while IFS= read -r row; do\n'
        '  case $row in *" nd-"*) printf "%s\\n" "$row" ;; esac\n'
        "done\n"
    )


def parse_queue(text: str) -> tuple[QueueRow, ...]:
    """The rows of `queue_script`; a line that is not a row (a site's banner) is passed over."""
    return tuple(row for row in map(_row, text.splitlines()) if row)


def _row(line: str) -> QueueRow | None:
    cells, at = [], 0
    for _, width in _COLUMNS:
        cells.append(line[at : at + width].strip())
        at += width
    job_id, restart, state, reason, used, left, start, name, nodes = cells
    if not job_id.isdigit() or not state:
        return None
    return QueueRow(
        job_id=job_id,
        restart=int(restart) if restart.isdigit() else 0,
        state=state.rstrip("*~#!%$@^+-"),
        reason=reason,
        elapsed_s=parse_elapsed(used),
        left_s=parse_elapsed(left),
        start="" if start in ("N/A", "Unknown") else start,
        name=name,
        nodes="" if nodes.startswith("(") else nodes,
    )


def parse_elapsed(text: str) -> int | None:
    """Slurm's `[D-][HH:]MM:SS` in seconds, None for anything else (`INVALID`, `UNLIMITED`)."""
    match = _ELAPSED.fullmatch(text)
    if not match:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return days * 86400 + hours * 3600 + minutes * 60 + seconds


def forgotten_script(job_id: str) -> str:
    """Does the controller still know this id? A purged one is an error with these words, not an empty answer."""
    return f"LC_ALL=C squeue --noheader --states=all --jobs={int(job_id)} -o '%i %T' 2>&1\n"


def is_forgotten(status: int, text: str) -> bool:
    """Slurm's own word that it holds nothing for the id; silence or another error is no proof."""
    return status == 1 and "Invalid job id specified" in text


def parse_job_id(text: str) -> str:
    """The job id in what `sbatch --parsable` printed, banners and `;cluster` around it or not; empty: none."""
    for line in reversed(text.splitlines()):
        match = re.fullmatch(r"(\d+)(?:;[\w.-]+)?", line.strip()) or re.search(r"Submitted batch job (\d+)\b", line)
        if match:
            return match[1]
    return ""


def was_refused(status: int, error: str) -> bool:
    """Whether sbatch's end proves that no job was made: Slurm's own words, and none that leave it open.

    Everything else is in doubt: a reply that timed out, a signal, silence. Source: slurm_errno.c, Slurm 26.05.
    """
    doubtful = ("Socket timed out", "send failure", "receive failure", "shutdown failure", "Zero Bytes", "Unexpected")
    said = "sbatch: error: " in error or "sbatch: fatal: " in error or "sbatch: unrecognized option" in error
    return status in (1, 255) and said and not any(words in error for words in doubtful)


def is_unreachable(error: str) -> bool:
    """Whether sbatch could not even connect to the controller."""
    return "(connect failure)" in error or "Unable to establish" in error


def cancel_script(job_id: str, *, gently: bool) -> str:
    """Gently: TERM to the supervisor alone, which ends everything in order. Otherwise: the whole job, now."""
    how = "--batch --signal=TERM " if gently else ""
    return f"scancel --quiet {how}{int(job_id)} 2>&1\n"


def cancel_by_name_script(name: str) -> str:
    """Every job of ours with this name, which is a token and so belongs to one submission only."""
    return f"scancel --me --quiet --name={name} 2>&1\n"
