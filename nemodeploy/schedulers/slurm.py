"""Slurm: questions and the parsers of their answers, and a total table of its job states.

Tried on Slurm 20.11.4, 22.05.8, 24.11.5 and 26.05.5; the formats are the same.
No JSON: below 24.11 it cannot be trusted.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence

from nemodeploy.core.checks import Check
from nemodeploy.core.plan import Plan
from nemodeploy.core.planning import Rules
from nemodeploy.core.sections import Section
from nemodeploy.core.spec import Cluster, Spec
from nemodeploy.core.witnesses import Trace
from nemodeploy.schedulers import slurm_gpus, slurm_limits, slurm_preflight, slurm_survey
from nemodeploy.schedulers.base import LIFE, Findings, Life, QueueRow, kept
from nemodeploy.schedulers.slurm_questions import parse_queue, parse_trace, queue_script, trace_script
from nemodeploy.schedulers.slurm_words import CAUSES, advice_on, is_unreachable, refusal_words, was_refused
from nemodeploy.schedulers.survey import Survey

__all__ = ["LIFE", "Life", "QueueRow", "Slurm", "is_unreachable", "was_refused"]

# What nemodeploy decides itself: short options, and long ones that sbatch also takes abbreviated.
_SHORT = "JadoeWtDNnMiHVhG"
_SWITCHES = "sOkKQvIbX"  # short options without a value, behind which others may stand
_LONG = (
    *("job-name", "array", "dependency", "output", "error", "input", "export", "export-file", "wrap", "wait", "time"),
    *("chdir", "nodes", "ntasks", "ntasks-per-node", "clusters", "signal", "requeue", "no-requeue", "test-only"),
    *("parsable", "uid", "gid", "hold", "open-mode", "time-min", "deadline", "het-group", "help", "usage", "version"),
    *("begin", "gpus", "gpus-per-node", "gpus-per-task", "gpus-per-socket", "ntasks-per-gpu", "partition", "account"),
)
_GPU_REQUEST = re.compile(r"(--gpus|--gpus-per-node|--gres|--tres-per-node|--constraint|-G|-C)(=.+|[A-Za-z0-9].*)?")


# SLURM_CONF and SLURM_JWT stay: they say which controller, and who we are.
PRELUDE = """\
for name in $(env | cut -d= -f1 | grep -E '^S(BATCH|QUEUE|ACCT|CANCEL|INFO|CONTROL)_[A-Z_]+$'); do
  unset "$name"
done
unset SLURM_CLUSTERS SLURM_BITSTR_LEN SLURM_JOB_ID; export LC_ALL=C SLURM_TIME_FORMAT=standard
"""


class Slurm:
    """The scheduler of this house."""

    name = "slurm"
    called = "Slurm"
    script = "nemo_inference.sbatch"
    script_template = "schedulers/slurm.sbatch.j2"
    submit_template = "schedulers/slurm.submit.sh.j2"
    probe_template = "schedulers/slurm.probe.j2"
    submitter = "sbatch"
    environment = kept("PATH", "HOME", "USER", "LOGNAME", "SLURM_CONF", "KRB5CCNAME", "LD_LIBRARY_PATH")
    bind = "0.0.0.0"
    causes = CAUSES

    def prelude(self, cluster: Cluster) -> str:
        """By the environment all of Slurm's commands know which cluster they are to ask; `-M` says the same."""
        chosen = f"export SLURM_CLUSTERS={shlex.quote(cluster.slurm_cluster)}\n" if cluster.slurm_cluster else ""
        path = f"export PATH={shlex.quote(cluster.slurm_path)}:$PATH\n" if cluster.slurm_path else ""
        return PRELUDE + chosen + path

    def rules(self, spec: Spec) -> Rules:
        """Options that would take the job's name, output or uniqueness away from us."""
        found = [
            ("slurm.extra_args", f"{word} is set by nemodeploy itself", _instead(word))
            for word in spec.slurm.extra_args
            if _is_ours(word)
        ]
        if spec.gpus_per_node and not _GPU_REQUEST.fullmatch(spec.gpu_request):
            what = f"{spec.gpu_request!r} does not ask for GPUs"
            found.append((f"gpus.{spec.gpu.type}.request", what, "for example --gpus-per-node=h100:8"))
        return found

    def submit_words(self, spec: Spec) -> tuple[str, ...]:
        """The site's own words to sbatch; they beat the script's lines."""
        options = spec.slurm
        names = ("partition", "account", "qos", "reservation", "constraint")
        chosen = (f"--clusters={spec.cluster.slurm_cluster}",) if spec.cluster.slurm_cluster else ()
        words = (*chosen, *(f"--{name}={getattr(options, name)}" for name in names if getattr(options, name)))
        return tuple(
            word
            for word in (*words, gpu_words(spec.gpu_request, spec.gpus_per_node, spec.nodes), *options.extra_args)
            if word
        )

    def unknown(self, spec: Spec) -> tuple[str, ...]:
        """What the controller decides."""
        where = spec.slurm.partition or "the default partition"
        nodes = f"{spec.nodes} node{'s' if spec.nodes > 1 else ''}"
        gpus = gpu_words(spec.gpu_request, spec.gpus_per_node, spec.nodes)
        listed = not spec.gpus_per_node or ("gpus", spec.gpu.type, "request") in spec.origins
        type_ = () if listed else (f"whether its GPUs are {spec.gpu.type}, for which the cluster file has no words",)
        return (
            *type_,
            f"whether {where} allows {nodes} with {gpus or 'no GPU'}",
            f"whether {spec.slurm.account or 'your default account'} may use it, and when it would start",
        )

    def preflight_parts(self, plan: Plan, files: Mapping[str, str]) -> Mapping[str, str]:
        """Partitions, nodes, and `sbatch --test-only` of these very files."""
        return slurm_preflight.parts(plan, files)

    def judge_preflight(self, plan: Plan, answers: Mapping[str, Section]) -> Findings:
        """Whether the partition allows it, and when it would start."""
        return slurm_preflight.judge(plan, answers)

    def survey_parts(self) -> Mapping[str, str]:
        """Version, controller, partitions, nodes, accounts."""
        return slurm_survey.parts()

    def parse_survey(self, answers: Mapping[str, Section]) -> Survey:
        """All of it."""
        return slurm_survey.parse(answers)

    def judge_survey(self, answers: Mapping[str, Section], plan: Plan | None, partition: str) -> Iterator[Check]:
        """Whether the controller answers, and what partition, nodes, GPUs and account say."""
        return slurm_survey.judge(slurm_survey.parse(answers), plan, partition)

    def queue_script(self, root: str) -> str:
        """Every job of ours, one question to the controller. Ends with squeue's own status."""
        return queue_script(root)

    def parse_queue(self, text: str) -> tuple[QueueRow, ...]:
        """The rows of `queue_script`."""
        return parse_queue(text)

    def limits_script(self, job_id: str, reason: str) -> str:
        """Its size, and the limits of its QOS and account."""
        return slurm_limits.script(job_id, reason)

    def hopeless(self, reason: str, limits: str) -> tuple[str, str] | None:
        """By the reason itself, or by Slurm's figures."""
        return slurm_limits.hopeless(reason, limits)

    def trace_script(self, jobs: Mapping[str, tuple[str, str]]) -> str:
        """The controller, by id, and accounting, by name."""
        return trace_script(jobs)

    def parse_trace(self, jobs: Mapping[str, tuple[str, str]], text: str) -> Mapping[str, Trace]:
        """Queue and accounting, each by itself."""
        return parse_trace(jobs, text)

    def granted_script(self, job_id: str) -> str:
        """The details of one job."""
        return f"timeout 20 scontrol show job -d {int(job_id)} 2>&1"

    def parse_granted(self, text: str) -> Mapping[str, int]:
        """Its GRES, as allocated."""
        return slurm_gpus.granted(text)

    def parse_job_id(self, text: str) -> str:
        """The likeliest one."""
        return parse_job_id(text)

    def parse_job_ids(self, text: str) -> tuple[str, ...]:
        """The ids in what `sbatch --parsable` printed."""
        return parse_job_ids(text)

    def was_refused(self, status: int, error: str) -> bool:
        """Whether sbatch's end proves that no job was made."""
        return was_refused(status, error)

    def refusal_words(self, error: str) -> tuple[str, ...]:
        """Every line that sbatch said, the verdict last."""
        return refusal_words(error)

    def advice_on(self, error: str) -> str:
        """What to do about a refusal in sbatch's words."""
        return advice_on(error)

    def is_unreachable(self, error: str) -> bool:
        """Whether sbatch could not even connect to the controller."""
        return is_unreachable(error)

    def errand_script(self, name: str, partition: str, account: str) -> str:
        """At most two hours on four cores."""
        words = ("--parsable", f"--job-name={name}", f"--partition={partition}", "--nodes=1", "--ntasks=1")
        more = ("--cpus-per-task=4", "--time=02:00:00", "--no-requeue", "--output=log")
        whose = (f"--account={account}",) if account else ()
        options = shlex.join((*words, *more, *whose, "--export=ALL"))
        clean = " ".join(("env", "-i", *self.environment))
        chosen = '${SLURM_CLUSTERS:+--clusters="$SLURM_CLUSTERS"}'
        return f'{clean} timeout 60 sbatch {chosen} {options} import.sh "$PWD" 2>&1 >job || {{ rm -f job; exit 1; }}'

    def errand_state_script(self, name: str) -> str:
        """squeue by name; a question that failed counts as an answer, since nothing may be taken for gone by it."""
        asked = f"squeue --me --noheader --name={shlex.quote(name)} -o %T 2>/dev/null"
        return f"{{ {asked} || echo unknown; }} | grep -v '^CLUSTER: '; exit 0"  # which it prints with a cluster named

    def cancel_script(self, token: str, root: str, *, gently: bool, renamed: str = "") -> str:
        """scancel by name, so that an id which wrapped around is never hit."""
        return cancel_script(token, gently=gently, renamed=renamed)

    def cancel_listed_script(self, job_ids: Sequence[str], *, gently: bool) -> str:
        """scancel takes one name only, but many ids."""
        return f"{_scancel(gently)}{' '.join(job_ids)} 2>&1\n"


def _instead(word: str) -> str:
    """What to write for an option that is ours to set."""
    return "slurm.cluster: NAME in the cluster file" if word.startswith(("-M", "--cl")) else "leave it out"


def _is_ours(word: str) -> bool:
    """Whether an sbatch option would take the job's name, time, place or output away from us."""
    if not word.startswith("--"):
        return word[1:2] in _SHORT or (word[1:2] in _SWITCHES and bool(set(word[2:]) & set(_SHORT)))
    name = word[2:].partition("=")[0]
    return any(option.startswith(name) for option in _LONG)


def gpu_words(request: str, count: int, nodes: int) -> str:
    """The site's request with the GPUs that this deployment takes of each node; other resources in it stay."""
    if not count:
        return ""
    if request.startswith("--gpus-per-node="):
        value = request.partition("=")[2]
        counted = re.fullmatch(r"(?:(.+):)?\d+", value)
        kind = (counted[1] or "") if counted else value
        return f"--gpus-per-node={kind}:{count}" if kind else f"--gpus-per-node={count}"
    total = re.fullmatch(r"(--gpus=|-G)(?:([A-Za-z][\w.-]*):?)?\d*", request)
    if total:  # counts all nodes together
        return f"{total[1]}{f'{total[2]}:' if total[2] else ''}{count * nodes}"
    if request.startswith(("--gres=", "--tres-per-node=")):
        return re.sub(r"(gpu(?:[:/][A-Za-z][\w.-]*)*)(?:([:=])\d+)?(?=[,(]|$)", rf"\1:{count}", request)
    return request


def parse_job_ids(text: str) -> tuple[str, ...]:
    """Every id in what `sbatch --parsable` printed, the likeliest first: its own line is a number, `;cluster` behind it
    or not; what a site's wrapper says around it may name other jobs."""
    lines = [line.strip() for line in reversed(text.splitlines())]
    own = [match[1] for line in lines if (match := re.fullmatch(r"(\d+)(?:;[\w.-]+)?", line))]
    told = [match[1] for line in lines if (match := re.search(r"Submitted batch job (\d+)\b", line))]
    return tuple(dict.fromkeys((*own, *told)))


def parse_job_id(text: str) -> str:
    """The likeliest of `parse_job_ids`; empty: none."""
    return next(iter(parse_job_ids(text)), "")


def cancel_script(token: str, *, gently: bool, renamed: str = "") -> str:
    """Every job of ours with this name, which is a token and so belongs to one submission only; and a renamed one by
    its id, where that job still runs in the token's directory.

    Gently, TERM goes to the supervisor alone, which ends everything in order. Slurm 20.11's scancel has no --me.
    """
    scancel = _scancel(gently)
    by_id = f"""\
case $(squeue --noheader --jobs={renamed} -o %Z 2>/dev/null) in
  */{token}) {scancel}{renamed} 2>&1 || exit ;;
esac
"""
    return f"{by_id if renamed.isdigit() else ''}{scancel}--name={token} 2>&1\n"


def _scancel(gently: bool) -> str:
    """Only jobs of ours; what has ended meanwhile is no trouble."""
    return f"scancel --user=$(id -u) --quiet {'--batch --signal=TERM ' if gently else ''}"
