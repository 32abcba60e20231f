"""From log lines to a likely cause. Advice only: nothing here ever decides a state."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nemodeploy.core.foreign import wash_line


@dataclass(frozen=True, kw_only=True, slots=True)
class Cause:
    """A failure as it looks in a log: the pattern of its line, what it means, what to do.

    `follower`: a line that tells of the end of somebody else; it explains only what nothing else does.
    """

    key: str
    pattern: str
    meaning: str
    advice: str = ""
    follower: bool = False


# What any server program on GPUs may say; engines, runtimes and schedulers bring their own. The first that matches a
# line counts, so what is more exact stands first. tests/unit/core/test_causes.py has a real line for each.
GENERAL: tuple[Cause, ...] = (
    Cause(
        key="no-bash",
        pattern=r"execve\(\): (\S*/)?bash: No such file|exec: \"(\S*/)?bash\""
        r"|executable file [`\"']?(\S*/)?bash[`\"']? not found",
        meaning="the image has no bash, which starts the server",
        advice="an image with bash: images: in the cluster file",
    ),
    Cause(
        key="program-missing",
        pattern=r"(?:: |exec: |[`\"'])(?P<what>[\w./+-]+)[`\"']?: (?:command )?not found"
        r"|^env: .(?P<env>[\w./+-]+).: No such file",
        meaning="the program {what} is not there: not in the image, or not on the node",
        advice="programs: in the cluster file says where the server program is; images: which image has it",
    ),
    Cause(
        key="module",
        pattern=r"module load \S+ failed|Lmod has detected the following error|Unable to locate a modulefile",
        meaning="a module of the cluster file could not be loaded on the node",
        advice="check modules: in the cluster file; module avail on a node lists them",
    ),
    Cause(
        key="gpu-memory",
        pattern=r"CUDA out of memory|OutOfMemoryError|CUDA error: out of memory|failed to allocate .* on device",
        meaning="the GPU ran out of memory",
        advice="use more GPUs, or a smaller serving.max_batch or serving.max_length",
    ),
    Cause(
        key="host-memory",
        pattern=r"oom[_-]kill|[Oo]ut[ -][Oo]f[ -][Mm]emory|Exceeded job memory limit|Cannot allocate memory|^Killed$",
        meaning="the memory of a node ran out",
        advice="whole nodes (--set slurm.exclusive=true) give all of it; the logs say how much was asked for",
    ),
    Cause(
        key="shared-memory",
        pattern=r"Bus error|/dev/shm|shared memory",
        meaning="there is too little shared memory in the container",
        advice="a larger /dev/shm: with docker, --shm-size or --ipc=host",
    ),
    Cause(
        key="cuda-library",
        pattern=r"libcuda\.so|libnvidia-ml\.so|NVML: Driver.Library",
        meaning="the GPU driver's libraries are missing in the process",
        advice="ask the site whether its containers get the driver (NVIDIA_DRIVER_CAPABILITIES=compute,utility)",
    ),
    Cause(
        key="library",
        pattern=r"cannot open shared object file",
        meaning="a system library is missing on the node",
        advice="install it there, or run the server in its container",
    ),
    Cause(
        key="cuda-driver",
        pattern=r"driver version is insufficient|forward compatibility was attempted|NVIDIA driver .* too old",
        meaning="the node's GPU driver is too old for this image",
        advice="an older image: images: in the cluster file",
    ),
    Cause(
        key="no-gpu",
        pattern=r"[Nn]o CUDA.capable device|GPU is needed|machine only has|CUDA_ERROR_NO_DEVICE|found no NVIDIA driver",
        meaning="the process sees no GPU, or fewer than it was told",
        advice="check gpus: in the cluster file against scontrol show node",
    ),
    Cause(
        key="gpu-broken",
        pattern=r"UNCORRECTABLE|uncorrectable ECC|Xid|GPU has fallen off|CUDA error: (unspecified launch|hardware)",
        meaning="a GPU is broken",
        advice="run it again without that node (slurm.extra_args: [--exclude=NODE]), and tell the site",
    ),
    Cause(
        key="port",
        pattern=r"Address already in use|EADDRINUSE|[Ff]ailed to listen|Socket '.*' already in use",
        meaning="the port is taken on that node",
        advice="--set port=auto",
    ),
    Cause(
        key="fabric",
        pattern=r"NET/IB ?: ?Got completion|ibv_modify_qp|Call to ibv_|NET/IB : Unable",
        meaning="the InfiniBand fabric failed",
        advice="set NCCL_IB_HCA or NCCL_IB_GID_INDEX in env: of the cluster file as the site says",
    ),
    Cause(
        key="network-interface",
        pattern=r"no socket interface found|ncclSystemError|unhandled system error",
        meaning="NCCL found no network that it could use",
        advice="set NCCL_SOCKET_IFNAME in env: of the cluster file; NCCL_DEBUG=INFO says which it tries",
    ),
    Cause(
        key="collective-timeout",
        pattern=r"collective operation timeout|Timeout\(ms\)=",
        meaning="ranks waited for one another for too long: one was stuck, or the server was idle",
        advice="the log of the rank that said nothing last shows which",
    ),
    Cause(
        key="rendezvous",
        pattern=r"client socket has timed out|gai error|Name or service not known|Temporary failure in name resolution"
        r"|Connection to \S+ timed out",
        meaning="the ranks did not find the first node",
        advice="can the nodes resolve and reach one another? NCCL_SOCKET_IFNAME in env: of the cluster file",
    ),
    Cause(
        key="layout",
        pattern=r"should equal|must be a multiple of tensor|is not divisible by|You set .* does not match"
        r"|You set .--ntasks",
        meaning="the layout does not match the model or the number of processes",
        advice="nemodeploy plan shows the layout",
    ),
    Cause(
        key="checkpoint-pointer",
        pattern=r"git-lfs|invalid load key|HeaderTooLarge|header too large|UnpicklingError",
        meaning="the checkpoint holds Git LFS pointers instead of the weights",
        advice="git lfs pull in the checkpoint's directory",
    ),
    Cause(
        key="checkpoint-incomplete",
        pattern=r"incomplete metadata|file not fully covered|MetadataIncompleteBuffer|PytorchStreamReader failed",
        meaning="a file of the checkpoint ends too early",
        advice="copy it again, and compare the sizes with the source's",
    ),
    Cause(
        key="architecture",
        pattern=r"Unsupported architecture|has no attribute \w+ForCausalLM|does not recognize this architecture",
        meaning="this program does not know the checkpoint's architecture",
        advice="nemodeploy models show NAME says which engines can; or a newer image: images: in the cluster file",
    ),
    Cause(
        key="checkpoint-keys",
        pattern=r"loading state_dict|size mismatch for|Param .* does not match",
        meaning="the checkpoint does not fit the program: another layout, or another release",
        advice="check checkpoints: in the cluster file, and the image's release",
    ),
    Cause(
        key="gated",
        pattern=r"GatedRepo|gated repo|401 Client Error|403 Client Error|Invalid user token",
        meaning="the model's host refused the download",
        advice="accept its licence there, and name the token in secrets: of the cluster file",
    ),
    Cause(
        key="context",
        pattern=r"greater than the derived max_model_len|exceeds max_input_len",
        meaning="the length asked for is more than the checkpoint was made for",
        advice="a smaller serving.max_length; the checkpoint's config.json says what it knows",
    ),
    Cause(
        key="offline",
        pattern=r"requested files in the disk cache|offline mode|HF_HUB_OFFLINE|LocalEntryNotFound",
        meaning="the model is not on the cluster, and nodes may not download it",
        advice="download it on the login host, and set checkpoints: in the cluster file",
    ),
    Cause(
        key="trust",
        pattern=r"requires you to execute the|contains custom code|pass the argument .trust_remote_code=True",
        meaning="the checkpoint brings code of its own, which was not allowed to run",
        advice="trust_remote_code: true in the model file, if you trust it",
    ),
    Cause(
        key="option",
        pattern=r"unrecognized arguments|arguments are required|Could not override|is not in struct|no such option",
        meaning="the server program does not know an option",
        advice="check the image's release; versions: in the cluster file says which one it is",
    ),
    Cause(
        key="package",
        pattern=r"ModuleNotFoundError|ImportError",
        meaning="the server program lacks a Python package",
        advice="check programs: or images: in the cluster file",
    ),
    Cause(
        key="disk",
        pattern=r"No space left on device|Disk quota exceeded",
        meaning="a disk is full",
        advice="check the space below root: and, for image imports, the nodes' own temporary directory",
    ),
    Cause(
        key="permission",
        pattern=r"Permission denied|PermissionError",
        meaning="a file may not be read, or a program may not be run",
        advice="check the permissions of the paths in the cluster file as the nodes see them",
    ),
    Cause(
        key="file",
        pattern=r"Can't find |No such file or directory|FileNotFoundError|path does not exist"
        r"|to be a file or directory|Repo id must be in the form",
        meaning="a file is not where it was said to be",
        advice="check the paths in the cluster file as the nodes see them",
    ),
    Cause(
        key="crash",
        pattern=r"Segmentation fault|core dumped|Fatal Python error|terminate called after",
        meaning="the server program crashed",
        advice="nemodeploy logs shows what it did before",
    ),
    Cause(
        key="nccl-follower",
        pattern=r"remote process exited|Connection (closed|reset) by|ncclRemoteError|socketStartConnect"
        r"|NCCL WARN Cuda fail|unhandled cuda error",
        meaning="this rank lost another one, whose end is the cause",
        advice="nemodeploy logs shows the others",
        follower=True,
    ),
)
_FOLLOWERS = re.compile(r"NCCL|remote process|Connection (closed|reset)|srun: |slurmstepd")
_SIGNS = re.compile(r"error|exception|fatal|failed|can't|cannot|killed|signal", re.IGNORECASE)
# torch and vLLM put who says it in front.
_WHO = r"(?:\[rank\d+\]: ?|\(\S+ pid=\d+\) ?)?(?:(?:ERROR|WARNING) \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\] ?)?"
_NO_MESSAGE = re.compile(_WHO + r"(?:\t|\s{4}|  File |[IW]\d{4} \d\d:\d\d:\d\d|INFO \d\d-\d\d \d\d:\d\d:\d\d)")
# What our own end writes, or Slurm at every start: no evidence of anything.
_NOISE = re.compile(
    r"^(?:slurmstepd(?:-\S+)?|srun): .*(?:\*\*\* (?:JOB|STEP) \S+ ON \S+ CANCELLED AT \S+(?: DUE to SIGNAL .*)? \*\*\*"
    r"|lacks support for cpu binding|task \S+: Terminated|(?i:forc(?:e|ing) (?:terminat|job terminat)))"
)
# Of that, what every job of a site writes; a person who reads a whole log is spared this line alone.
_EVERY_START = re.compile(r"srun: cluster configuration lacks support for cpu binding\s*")
_SHOWN = 300
_READ = 4000  # of one line


@dataclass(frozen=True, slots=True)
class Log:
    """The end of one log file."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The line that shows why, where it stands, what it means and what to do; empty where nothing is known."""

    line: str = ""
    log: str = ""
    meaning: str = ""
    advice: str = ""
    key: str = ""

    @property
    def evidence(self) -> tuple[str, ...]:
        """The line for people, with its log behind it."""
        return (f"{self.line}     {self.log}",) if self.line else ()


def diagnose(logs: Sequence[Log], first_rank: int | None, causes: Iterable[Cause] = ()) -> Diagnosis:
    """The first cause: in the log of the rank that ended first if there is one, then in the others.

    `causes` of the engine, the runtime and the scheduler come before the general ones.
    """
    ordered = sorted(logs, key=lambda log: not (first_rank is not None and log.name.endswith(f".{first_rank}.log")))
    table = [(cause, re.compile(cause.pattern)) for cause in (*causes, *GENERAL)]
    for follower in (False, True):
        wanted = [(cause, pattern) for cause, pattern in table if cause.follower is follower]
        others = [pattern for cause, pattern in table if cause.follower is not follower]
        for log in ordered:
            for line in _messages(log.text):
                if not follower and any(pattern.search(line) for pattern in others):
                    continue
                for cause, pattern in wanted:
                    match = pattern.search(line)
                    if match:
                        what = next(filter(None, match.groupdict().values()), "")
                        meaning = cause.meaning.replace("{what}", wash_line(what))
                        return Diagnosis(shown(line), wash_line(log.name), meaning, cause.advice, cause.key)
    return _last_sign(ordered)


def _messages(text: str) -> Iterable[str]:
    """Its lines, less a traceback's own source lines, and what a server itself calls information or a warning."""
    return (line[:_READ] for line in text.splitlines() if not _NO_MESSAGE.match(line) and not _NOISE.search(line))


def _last_sign(logs: Sequence[Log]) -> Diagnosis:
    for wanted in (
        lambda line: _SIGNS.search(line) and not _FOLLOWERS.search(line),
        lambda line: _SIGNS.search(line),
        bool,
    ):
        for log in logs:
            lines = [line[:_READ] for line in log.text.splitlines() if line.strip() and not _NOISE.search(line)]
            found = [line for line in lines if wanted(line)]
            if found:
                return Diagnosis(shown(found[-1]), wash_line(log.name))
    return Diagnosis()


SIGNALS = {
    6: "it aborted itself",
    7: "a bus error: mostly too little shared memory",
    9: "it was killed outright: mostly because the memory of its node ran out",
    11: "it crashed: a segmentation fault",
    15: "somebody else sent it TERM",
}


def status_in_words(status: int) -> str:
    """What an exit status of a shell says besides its number; empty: nothing."""
    return SIGNALS.get(status - 128, f"signal {status - 128}" if 128 < status < 165 else "")


def is_worth_a_line(line: str) -> bool:
    """Whether a person who reads a whole log wants it: all but what srun writes at every start of some sites."""
    return not _EVERY_START.fullmatch(line)


def shown(line: str) -> str:
    """A log line for people: washed, at most 300 characters of it."""
    plain = wash_line(line)
    return plain if len(plain) <= _SHOWN else plain[:_SHOWN] + " …"
