"""No scheduler: a plain host, reached over SSH. The supervisor runs detached; its process id is the job id.

`host.job` in the run directory holds process id, start time in clock ticks since boot, the boot's own id, the time
limit in seconds, and the host's name; the first three together name one process for ever. A host that shares the
directory with another can say nothing of a process there. Whatever a rank starts carries the token in its environment,
in a container and out of one, so what has outlived the supervisor is found by that.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence

from nemodeploy.core import gpu_words
from nemodeploy.core.checks import Check, failed, ok
from nemodeploy.core.diagnosis import Cause
from nemodeploy.core.foreign import wash_line
from nemodeploy.core.plan import Plan
from nemodeploy.core.planning import Rules
from nemodeploy.core.processes import SAME
from nemodeploy.core.sections import Section
from nemodeploy.core.spec import Cluster, SlurmOptions, Spec
from nemodeploy.core.witnesses import Trace, Word
from nemodeploy.schedulers.base import Findings, QueueRow, kept
from nemodeploy.schedulers.survey import Survey

# Shell functions, besides `same`: `here BOOT HOST`, whether a process is or was one of this host; `left TOKEN` prints
# the processes that ranks of it started.
_SAME = (
    SAME.rstrip()
    + r"""
here() { [ "$1" = "$boot" ] || [ "${2:-$host}" = "$host" ]; }
left() { grep -slzx "SLURM_JOB_NAME=$1" /proc/[0-9]*/environ | cut -d/ -f3; }
host=$(uname -n)
"""
)
_ROW = re.compile(r"(\d+) (RUNNING|ORPHANED|COMPLETED|ELSEWHERE) (-?\d+) (-?\d+) (nd-[a-z0-9-]+) (\S+)")

_REASONS: Mapping[str, str] = {
    "ELSEWHERE": "started on {host}, so only that host can tell",
    "ORPHANED": "its supervisor was killed, and some of its processes live on; nemodeploy down ends them",
}


class PlainHost:
    """One machine that is ours for as long as we use it."""

    name = "none"
    called = "the host"
    script = "nemo_inference.job"
    script_template = "schedulers/none.job.j2"
    submit_template = "schedulers/none.submit.sh.j2"
    probe_template = ""
    submitter = "bash"
    environment = kept("PATH", "HOME", "USER", "LOGNAME")
    bind = "127.0.0.1"
    causes: tuple[Cause, ...] = ()

    def prelude(self, cluster: Cluster) -> str:
        """Nothing changes its answers."""
        return ""

    def rules(self, spec: Spec) -> Rules:
        """One host; nothing to say to a scheduler that is not there."""
        found = []
        if spec.nodes > 1:
            found.append(("nodes", "a host without a scheduler is one node", "--nodes 1"))
        options = spec.slurm
        site = spec.cluster
        if options != SlurmOptions(exclusive=options.exclusive) or site.slurm_cluster or site.slurm_path:
            found.append(("slurm", "this cluster says scheduler: none", "leave slurm: out"))
        return found

    def submit_words(self, spec: Spec) -> tuple[str, ...]:
        """None."""
        return ()

    def unknown(self, spec: Spec) -> tuple[str, ...]:
        """Who else uses the machine."""
        return ("whether the GPUs are free: there is no scheduler that would know",)

    def preflight_parts(self, plan: Plan, files: Mapping[str, str]) -> Mapping[str, str]:
        """The programs it takes, and the GPUs that there are."""
        runtime = "" if plan.runtime == "none" else plan.runtime
        needed = f"for program in bash setsid {runtime}; do command -v $program >/dev/null || echo $program; done"
        return {"missing": needed, "gpus": "nvidia-smi -L 2>&1"}

    def judge_preflight(self, plan: Plan, answers: Mapping[str, Section]) -> Findings:
        """What is not installed, and too few GPUs; a host without nvidia-smi says nothing of its GPUs."""
        problems = [(f"{name} is not installed on the host", "install it") for name in answers["missing"].text.split()]
        gpus = answers["gpus"]
        names = re.findall(r"^GPU \d+: ([^(\n]+)", gpus.text, re.MULTILINE) if gpus.status == 0 else []
        there = len(names) if gpus.status == 0 else None
        stated = any(key.startswith(f"gpus.{plan.gpu_type}.") for key in plan.sources)
        size = plan.memory.total_gib_per_gpu
        right = [name for name in names if stated or gpu_words.means(plan.gpu_type, name, memory_gib=size)]
        if there is not None and there < plan.layout.gpus:
            problems.append((f"the host has {there} GPUs, and the job needs {plan.layout.gpus}", "a smaller profile"))
        elif there is not None and len(right) < plan.layout.gpus:
            has = ", ".join(sorted({name.strip() for name in names}))
            what = f"the host has {len(right)} {plan.gpu_type} GPUs, and the job needs {plan.layout.gpus}; it has {has}"
            problems.append((what, "a profile for these GPUs"))
        seen = "" if there is None else f" · {there} GPUs"
        return Findings(problems=tuple(problems), says=f"the host has what it takes{seen}")

    def survey_parts(self) -> Mapping[str, str]:
        """The programs that its job takes."""
        return {"host.programs": "for p in bash setsid; do command -v $p >/dev/null || echo $p; done"}

    def parse_survey(self, answers: Mapping[str, Section]) -> Survey:
        """It has no queue to tell of."""
        return Survey(version="")

    def judge_survey(self, answers: Mapping[str, Section], plan: Plan | None, partition: str) -> Iterator[Check]:
        """Whether they are there."""
        missing = answers["host.programs"].text.split()
        if missing:
            yield failed("host", f"it lacks {', '.join(missing)}", "install bash and util-linux there")
        else:
            yield ok("host", "bash and setsid")

    def queue_script(self, root: str) -> str:
        """One line a run directory."""
        return f"""{_SAME}
read -r up _ </proc/uptime
for file in {root}/deployments/*/*/host.job; do
  [ -f "$file" ] && read -r pid start born limit where <"$file" || continue
  name=${{file%/host.job}}; state=COMPLETED; used=0
  if same "$pid" "$start" "$born"; then
    state=RUNNING; used=$((${{up%.*}} - start / 100))
  elif ! here "$born" "$where"; then
    state=ELSEWHERE
  elif [ -n "$(left "${{name##*/}}")" ]; then
    state=ORPHANED
  fi
  echo "$pid $state $used $((limit - used)) ${{name##*/}} ${{where:-$host}}"
done
"""

    def parse_queue(self, text: str) -> tuple[QueueRow, ...]:
        """The rows of `queue_script`."""
        return tuple(
            QueueRow(
                job_id=match[1],
                restart=0,
                state=match[2],
                reason=_REASONS.get(match[2], "None").format(host=match[6]),
                elapsed_s=max(int(match[3]), 0),
                left_s=max(int(match[4]), 0),
                start="",
                name=match[5],
                nodes=match[6],
                told_by=self.called,
            )
            for match in map(_ROW.fullmatch, text.splitlines())
            if match
        )

    def limits_script(self, job_id: str, reason: str) -> str:
        """There are none."""
        return ""

    def hopeless(self, reason: str, limits: str) -> tuple[str, str] | None:
        """Nothing waits here."""
        return None

    def trace_script(self, jobs: Mapping[str, tuple[str, str]]) -> str:
        """Whether the very process that the submission started is alive, or what it started."""
        each = "\n".join(f"one {token} {directory}" for token, (_, directory) in jobs.items())
        return f"""{_SAME}
one() {{
  read -r pid start born limit where <"$2/host.job" || return
  here "$born" "$where" || return
  fate=gone
  if same "$pid" "$start" "$born" || [ -n "$(left "$1")" ]; then fate=alive; fi
  echo "$1 $fate $pid"
}}
{{
{each}
}} 2>/dev/null
exit 0
"""

    def parse_trace(self, jobs: Mapping[str, tuple[str, str]], text: str) -> Mapping[str, Trace]:
        """Its clear no, or yes; without the file there is neither. The kernel does not forget a process that lives, as
        a controller may forget a job."""
        said = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.count(" ") == 2}
        words = {"alive": Word.ALIVE, "gone": Word.ENDED}
        return {
            token: Trace(
                job_id=said[token][1] if token in said else job_id,
                queue=words.get(said[token][0], Word.SILENT) if token in said else Word.SILENT,
                account=Word.MISSING,
            )
            for token, (job_id, _) in jobs.items()
        }

    def granted_script(self, job_id: str) -> str:
        """It grants nothing."""
        return ":"

    def parse_granted(self, text: str) -> Mapping[str, int]:
        """Nothing."""
        return {}

    def parse_job_id(self, text: str) -> str:
        """The last line that is a number."""
        return next((line.strip() for line in reversed(text.splitlines()) if line.strip().isdigit()), "")

    def parse_job_ids(self, text: str) -> tuple[str, ...]:
        """That one: submit.sh prints nothing behind it."""
        return tuple(filter(None, (self.parse_job_id(text),)))

    def was_refused(self, status: int, error: str) -> bool:
        """submit.sh says itself when it started nothing."""
        return status != 0 and "nothing was started" in error

    def refusal_words(self, error: str) -> tuple[str, ...]:
        """The last line that a shell said."""
        return tuple(line.rpartition("error: ")[2] for line in map(wash_line, error.splitlines()) if line)[-1:]

    def advice_on(self, error: str) -> str:
        """Its own words say it all."""
        return ""

    def is_unreachable(self, error: str) -> bool:
        """There is nothing behind it that could be out of reach."""
        return False

    def errand_script(self, name: str, partition: str, account: str) -> str:
        """There are no partitions."""
        return ""

    def errand_state_script(self, name: str) -> str:
        """There are no jobs but deployments."""
        return ":"

    def cancel_script(self, token: str, root: str, *, gently: bool, renamed: str = "") -> str:
        """By the file that the submission wrote. A step leads a session of its own, and the supervisor outlives it.

        What it has left behind is killed only where it is gone itself: it ends a step in better order.
        """
        hard = (
            'for one in $(cat "/proc/$pid"/task/*/children); do\n'
            "    session=$(sed 's/.*) //' \"/proc/$one/stat\" | cut -d' ' -f4)\n"
            '    [ "$session" != "$one" ] || kill -KILL -- "-$one"\n'
            "  done 2>/dev/null\n  "
        )
        return f"""{_SAME}
for file in {root}/deployments/*/{token}/host.job; do
  [ -f "$file" ] && read -r pid start born limit where <"$file" || continue
  if ! same "$pid" "$start" "$born"; then
    here "$born" "$where" && left {shlex.quote(token)} | xargs -r kill -KILL
    continue
  fi
  {"" if gently else hard}kill -TERM "$pid" # it alone can take containers away
done
exit 0
"""

    def cancel_listed_script(self, job_ids: Sequence[str], *, gently: bool) -> str:
        """Each by its own file."""
        return ""
