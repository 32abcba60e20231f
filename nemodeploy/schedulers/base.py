"""What a scheduler has to know. Job states are Slurm's words; a host without Slurm uses two of them."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from nemodeploy.core.checks import Check
from nemodeploy.core.diagnosis import Cause
from nemodeploy.core.foreign import wash_line
from nemodeploy.core.plan import Plan
from nemodeploy.core.planning import Rules
from nemodeploy.core.sections import Section
from nemodeploy.core.spec import Cluster, Spec
from nemodeploy.core.witnesses import Trace
from nemodeploy.schedulers.reasons import meaning_of
from nemodeploy.schedulers.survey import Survey


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

# Ends that Slurm itself brings about: what they mean, and what to do. They count before any line of a log.
ENDS: Mapping[str, tuple[str, str]] = {
    "OUT_OF_MEMORY": ("the memory of a node ran out", "whole nodes (--set slurm.exclusive=true) give all of it"),
    "NODE_FAIL": ("a node failed", "run the same command again"),
    "BOOT_FAIL": ("a node did not boot", "run the same command again"),
    "PREEMPTED": ("a job of higher priority took its nodes", "--set requeue=true lets it start again by itself"),
    "TIMEOUT": ("its time limit was reached", "--set time=08:00:00 asks for more"),
    "DEADLINE": ("its deadline passed", "leave --deadline out"),
    "CANCELLED": ("cancelled, not through nemodeploy", ""),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueRow:
    """One job as squeue shows it. Times in seconds; `start` is Slurm's own text, empty when it has no estimate;
    `directory` is where it runs, empty when the scheduler does not say; `elsewhere`: that is proven to lie in another
    root than the one that was asked about."""

    job_id: str
    restart: int
    state: str
    reason: str
    elapsed_s: int | None
    left_s: int | None
    start: str
    name: str
    nodes: str
    directory: str = ""
    elsewhere: bool = False
    told_by: str = "Slurm"

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
        """Slurm's reason, with what it means, and when it expects the start (by the cluster's clock)."""
        reason = wash_line(self.reason)
        meaning = meaning_of(reason)
        text = meaning if reason == "None" else f"{reason}: {meaning}" if meaning else reason
        when = re.fullmatch(r"\d{4}-(\d\d-\d\d)T(\d\d:\d\d):\d\d", self.start)
        return f"{text} · expected start {when[1]} {when[2]}" if when and self.kind == "waiting" else text


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """What the site has against a deployment, each with what to write instead; and a line for whoever watches."""

    problems: tuple[tuple[str, str], ...]
    says: str


def kept(*names: str) -> tuple[str, ...]:
    """Words of shell that keep these variables behind `env -i`, each where it is set."""
    return tuple(f'${{{name}:+{name}="${name}"}}' for name in names)


class Scheduler(Protocol):
    """Who starts a deployment: the words to it, and the questions about it as pairs of shell text and parser.

    `root` is the cluster's root directory as shell text; scripts are POSIX shell for the login host.
    """

    @property
    def name(self) -> str:
        """As in cluster files."""

    @property
    def called(self) -> str:
        """As a sentence names it: it refused, it does not answer."""

    @property
    def script(self) -> str:
        """The file name of the job's script."""

    @property
    def script_template(self) -> str:
        """The template of the job's script."""

    @property
    def submit_template(self) -> str:
        """The template of submit.sh, which prints a job id."""

    @property
    def probe_template(self) -> str:
        """The template of a short job that looks at the nodes; empty: there are none to be had."""

    @property
    def submitter(self) -> str:
        """The program that submit.sh calls."""

    @property
    def environment(self) -> tuple[str, ...]:
        """What a submission needs of the login's environment, as words of shell behind `env -i`."""

    def prelude(self, cluster: Cluster) -> str:
        """Shell text before every question: what a login may have set and what would change the answers goes, and
        which scheduler of the site is asked."""

    @property
    def bind(self) -> str:
        """Where servers listen: loopback where the SSH host is the server's own, else the node's interfaces."""

    @property
    def causes(self) -> tuple[Cause, ...]:
        """What it says itself in a job's log when something fails."""

    def rules(self, spec: Spec) -> Rules:
        """What it refuses: dotted key, what is wrong, what to write instead."""

    def submit_words(self, spec: Spec) -> tuple[str, ...]:
        """The site's own words to the submitter."""

    def unknown(self, spec: Spec) -> tuple[str, ...]:
        """What only the site can tell; `up` asks it before it queues."""

    def preflight_parts(self, plan: Plan, files: Mapping[str, str]) -> Mapping[str, str]:
        """Questions for one remote call before anything is submitted: shell texts by name."""

    def judge_preflight(self, plan: Plan, answers: Mapping[str, Section]) -> Findings:
        """What the answers say; no answer stands against nothing."""

    def survey_parts(self) -> Mapping[str, str]:
        """Questions about the site itself: shell texts by name."""

    def parse_survey(self, answers: Mapping[str, Section]) -> Survey:
        """What the site says of itself, for whoever writes it down."""

    def judge_survey(self, answers: Mapping[str, Section], plan: Plan | None, partition: str) -> Iterator[Check]:
        """What the site has against any job of a partition (empty: the default one); with a plan, against this one."""

    def queue_script(self, root: str) -> str:
        """Every job of ours, by its name or its working directory. A status other than 0 is no answer."""

    def parse_queue(self, text: str) -> tuple[QueueRow, ...]:
        """The rows of `queue_script`."""

    def limits_script(self, job_id: str, reason: str) -> str:
        """Ask how a waiting job compares with the limit that its reason names; empty: there is nothing to ask."""

    def hopeless(self, reason: str, limits: str) -> tuple[str, str] | None:
        """Why a job would wait for ever, and what to ask for instead; None: it may start by itself. `limits` is what
        `limits_script` printed."""

    def trace_script(self, jobs: Mapping[str, tuple[str, str]]) -> str:
        """Ask queue and accounting for these jobs: by token the id (empty: not known) and the run directory."""

    def parse_trace(self, jobs: Mapping[str, tuple[str, str]], text: str) -> Mapping[str, Trace]:
        """What each of them says, by token; an error says nothing."""

    def granted_script(self, job_id: str) -> str:
        """Ask what a running job was given."""

    def parse_granted(self, text: str) -> Mapping[str, int]:
        """Its GPUs on all nodes by the site's own type (empty: it has none); none: the scheduler does not say."""

    def parse_job_id(self, text: str) -> str:
        """The job id in what submit.sh printed; empty: none."""

    def parse_job_ids(self, text: str) -> tuple[str, ...]:
        """Every job id that it may be, the likeliest first; only one that stands alone is sure."""

    def was_refused(self, status: int, error: str) -> bool:
        """Whether the submitter's end proves that no job was made."""

    def refusal_words(self, error: str) -> tuple[str, ...]:
        """What the submitter, or a plug-in of the site, said when it refused; the verdict last."""

    def advice_on(self, error: str) -> str:
        """What to do about the submitter's refusal; empty: nobody knows."""

    def is_unreachable(self, error: str) -> bool:
        """Whether the submitter could not even ask."""

    def errand_script(self, name: str, partition: str, account: str) -> str:
        """Shell text that submits ./import.sh as a job of this name to a partition, on a few cores and without GPUs,
        and writes its id to the file `job`; empty: there are no partitions."""

    def errand_state_script(self, name: str) -> str:
        """Shell text that prints the state of the job of this name; nothing: there is none."""

    def cancel_script(self, token: str, root: str, *, gently: bool, renamed: str = "") -> str:
        """End every job of a token, which no other job can have, so an id that was given away is never hit. `renamed`:
        the id of a job that has another name by now, and is ended where it still runs in the token's directory.

        Gently: TERM to the supervisor alone, which ends everything in order. Otherwise: the whole job, now.
        """

    def cancel_listed_script(self, job_ids: Sequence[str], *, gently: bool) -> str:
        """The same in one call for several jobs whose names the queue has just listed; empty: there is no such call."""
