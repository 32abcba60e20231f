"""One real line for every failure that the tables know, in words as the programs print them."""

# ruff: noqa: E501
from __future__ import annotations

import pytest

from nemodeploy.assembly import causes
from nemodeploy.core.diagnosis import GENERAL, Log, diagnose, status_in_words
from nemodeploy.engines import ENGINES
from nemodeploy.engines.base import Engine
from nemodeploy.runtimes import RUNTIMES
from nemodeploy.runtimes.base import Runtime
from nemodeploy.schedulers import SCHEDULERS
from nemodeploy.schedulers.base import Scheduler

PLAN = {"engine": "vllm", "runtime": "pyxis"}
OWN = causes(PLAN, "slurm")
LINES: tuple[tuple[str, str], ...] = (
    (
        "gpu-memory",
        "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.95 GiB (GPU 0; 79.1 GiB total)",
    ),
    (
        "host-memory",
        "slurmstepd: error: Detected 1 oom_kill event in StepId=48213.0. Some of the step tasks have been OOM Killed.",
    ),
    ("host-memory", "slurmstepd: error: Exceeded job memory limit"),
    ("host-memory", "Killed"),
    ("shared-memory", "ERROR: Unexpected bus error encountered in worker. Bus error (core dumped)"),
    ("shared-memory", "NCCL WARN Error while creating shared memory segment /dev/shm/nccl-abc (size 9637888)"),
    ("cuda-library", "ImportError: libcuda.so.1: cannot open shared object file: No such file or directory"),
    ("library", "ImportError: libgomp.so.1: cannot open shared object file: No such file or directory"),
    ("cuda-driver", "RuntimeError: CUDA driver version is insufficient for CUDA runtime version"),
    ("cuda-driver", "Error 804: forward compatibility was attempted on non supported HW"),
    ("no-gpu", "RuntimeError: No CUDA-capable device is detected"),
    ("no-gpu", "EnvironmentError: GPU is needed for the inference"),
    (
        "no-gpu",
        "MisconfigurationException: You requested gpu: [0, 1]\n But your machine only has: [0]".replace("\n", ""),
    ),
    ("gpu-broken", "NVRM: Xid (PCI:0000:c1:00): 79, pid='<unknown>', GPU has fallen off the bus."),
    ("port", "OSError: [Errno 98] Address already in use"),
    ("port", "The server socket has failed to listen on any local network address. port: 29500"),
    (
        "fabric",
        "NCCL WARN NET/IB : Got completion from peer 10.0.0.2<4791> with status=12 opcode=0 len=0 vendor err 129",
    ),
    ("network-interface", "NCCL WARN Bootstrap : no socket interface found"),
    (
        "network-interface",
        "ncclSystemError: System call (e.g. socket, malloc) or external library call failed or device error.",
    ),
    (
        "collective-timeout",
        "[Rank 3] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7, Timeout(ms)=600000)",
    ),
    (
        "rendezvous",
        "torch.distributed.DistNetworkError: The client socket has timed out after 600000ms while connecting",
    ),
    ("rendezvous", "[c10d] Connection to 10.0.0.2 timed out, retrying"),
    ("rendezvous", "socket.gaierror: [Errno -2] Name or service not known"),
    (
        "layout",
        "AssertionError: devices * num_nodes should equal tensor_model_parallel_size * pipeline_model_parallel_size",
    ),
    ("layout", "RuntimeError: You set `--ntasks=16` in your SLURM bash script, but this variable is not supported."),
    ("checkpoint-pointer", "_pickle.UnpicklingError: invalid load key, 'v'."),
    ("checkpoint-pointer", "safetensors_rust.SafetensorError: Error while deserializing header: HeaderTooLarge"),
    ("checkpoint-keys", "RuntimeError: Error(s) in loading state_dict for MegatronGPTModel:"),
    ("gated", "huggingface_hub.utils._errors.GatedRepoError: 401 Client Error. (Request ID: Root=1-6)"),
    (
        "offline",
        "OSError: We couldn't connect to 'https://huggingface.co', and couldn't find the requested files in the disk cache",
    ),
    (
        "context",
        "Value error, User-specified max_model_len (8192) is greater than the derived max_model_len (4096)",
    ),
    ("checkpoint-pointer", "safetensors_rust.SafetensorError: Error while deserializing header: header too large"),
    (
        "checkpoint-incomplete",
        "[rank0]: SafetensorError: Error while deserializing header: incomplete metadata, file not fully covered",
    ),
    ("architecture", "AttributeError: module transformers has no attribute DeciLMForCausalLM"),
    ("file", "OSError: Repo id must be in the form 'repo_name' or 'namespace/repo_name': '/lustre/models/x'"),
    (
        "trust",
        "ValueError: Loading this model requires you to execute the configuration file; set trust_remote_code=True",
    ),
    ("option", "serve.py: error: unrecognized arguments: --tensor-parallel 8"),
    ("option", "Could not override 'megatron_amp_O3'."),
    ("package", "ModuleNotFoundError: No module named 'nemo'"),
    ("disk", "OSError: [Errno 28] No space left on device: '/tmp/model'"),
    ("permission", "PermissionError: [Errno 13] Permission denied: '/models/340b/model_config.yaml'"),
    ("file", "FileNotFoundError: [Errno 2] No such file or directory: '/models/340b'"),
    ("file", "ValueError: Can't find a NeMo checkpoint at /model"),
    ("crash", "Segmentation fault (core dumped)"),
    (
        "nccl-follower",
        "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely.",
    ),
    ("nccl-follower", "ncclUnhandledCudaError: Call to CUDA function failed. unhandled cuda error"),
    ("nccl-follower", "NCCL WARN Net : Connection closed by remote peer a100-7<4311>"),
    # an engine's own
    ("kv-cache", "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`"),
    (
        "gpu-occupied",
        "ValueError: Free memory on device (21.4/79.1 GiB) on startup is less than desired GPU memory utilization",
    ),
    ("architecture", "ValueError: Model architectures ['DeciLMForCausalLM'] are not supported for now."),
    ("gpu-count", "ValueError: World size (8) is larger than the number of available GPUs (4) in this node."),
    ("module", "module load cuda/99 failed on h100-1"),
    ("module", 'Lmod has detected the following error: The following module(s) are unknown: "cuda/99"'),
    ("module", "ERROR: Unable to locate a modulefile for 'cuda/99'"),
    # a runtime's own
    ("no-pyxis", "srun: unrecognized option '--container-image=nvcr.io#nvidia/nemo:24.01.framework'"),
    (
        "image-separator",
        "[INFO] Querying registry for permission grant https://registry-1.docker.io/v2/nvcr.io/nvidia/nemo/manifests/24.01",
    ),
    (
        "image-login",
        "slurmstepd: error: pyxis: [ERROR] URL https://nvcr.io/proxy_auth returned error code: 401 Unauthorized",
    ),
    ("image-tag", "slurmstepd: error: pyxis: [ERROR] URL https://nvcr.io/v2/nvidia/nemo/manifests/99 404 Not Found"),
    ("no-internet", "slurmstepd: error: pyxis: curl: (6) Could not resolve host: nvcr.io"),
    ("image-disk", "FATAL ERROR: Failed to write to output filesystem"),
    ("image-disk", "slurmstepd: error: pyxis: mksquashfs: Write failed because No space left on device"),
    ("image-place", "slurmstepd: error: pyxis: mkdir: cannot create directory '/run/enroot': Permission denied"),
    ("namespace", "slurmstepd: error: pyxis: enroot-nsenter: failed to create user namespace: Operation not permitted"),
    ("mount", "slurmstepd: error: pyxis: could not add mount entry: /models:/model"),
    ("gpu-hook", "slurmstepd: error: pyxis: [ERROR] /etc/enroot/hooks.d/98-nvidia.sh exited with return code 1"),
    ("image", "slurmstepd: error: pyxis: failed to import docker image"),
    ("plugin-stack", "slurmstepd: error: Failed to invoke spank plugin stack"),
    # the scheduler's own
    ("time-limit", "slurmstepd: error: *** JOB 48213 ON h100-1 CANCELLED AT 2026-11-21T12:00:00 DUE TO TIME LIMIT ***"),
    ("preempted", "slurmstepd: error: *** JOB 48213 ON h100-1 CANCELLED AT 2026-11-21T12:00:00 DUE TO PREEMPTION ***"),
    ("node-failure", "srun: error: Node failure on h100-2"),
    (
        "node-failure",
        "slurmstepd: error: *** JOB 48213 ON h100-1 CANCELLED AT 2026-11-21T12:00:00 DUE TO NODE FAILURE ***",
    ),
    ("pmix", "[h100-1:4711] PMIX ERROR: ERROR in file psec_munge.c at line 110"),
    ("pmix", "srun: error: Couldn't load specified plugin name for mpi/pmix: Plugin init() callback failed"),
    ("no-program", "slurmstepd: error: execve(): megatron: No such file or directory"),
    ("cancelled", "slurmstepd: error: *** JOB 48213 ON h100-1 CANCELLED AT 2026-11-21T12:00:00 DUE TO JOB REQUEUE ***"),
    ("program-missing", "/work/run/nemo_inference.sh: line 31: python: command not found"),
    ("program-missing", "bash: line 1: exec: python3: not found"),
    ("program-missing", "env: 'trtllm-serve': No such file or directory"),
    ("no-bash", "slurmstepd: error: execve(): bash: No such file or directory"),
    ("no-bash", 'exec: "bash": executable file not found in $PATH: unknown'),
    ("no-bash", "Error: crun: executable file `bash` not found in $PATH: No such file or directory: OCI runtime"),
    ("step", "srun: Job step aborted: Waiting up to 32 seconds for job step to finish."),
    ("step", "srun: error: h100-1: task 3: Exited with exit code 1"),
)

BY_APPTAINER = (
    (
        "image-file",
        "FATAL:   While checking container encryption: could not open image /x.sif: failed to retrieve path for /x.sif: lstat /x.sif: no such file or directory",
    ),
    (
        "image-format",
        "FATAL:   While checking container encryption: could not open image /etc/hosts: image format not recognized",
    ),
    (
        "image-extract",
        "FATAL:   while extracting /x.sif: root filesystem extraction failed: command error: while running unsquashfs: exit status 1",
    ),
    (
        "mount",
        "FATAL:   container creation failed: mount hook function failure: mount /x->/x error: while mounting /x: mount source /x doesn't exist",
    ),
    (
        "image-login",
        "FATAL:   While performing build: conveyor failed to get: reading manifest 1 in 127.0.0.1:5077/own/empty: authentication required",
    ),
    ("namespace", "ERROR  : Failed to create user namespace: not allowed to create user namespace"),
    (
        "no-internet",
        'FATAL:   Unable to handle docker://127.0.0.1:9/a/b:1 uri: pinging container registry 127.0.0.1:9: Get "https://127.0.0.1:9/v2/": dial tcp 127.0.0.1:9: connect: connection refused',
    ),
)

# What pyxis 0.24 and enroot 4.1 say.
BY_PYXIS = (
    ("image-file", "slurmstepd-h100-1: error: pyxis:     [ERROR] No such file or directory: /nosuch.sqsh"),
    ("image-format", "slurmstepd-h100-1: error: pyxis:     [ERROR] Invalid image format: /etc/hosts"),
    ("mount", "slurmstepd-h100-1: error: pyxis: --container-mounts: source path does not exist: /nosuch"),
    (
        "no-internet",
        "slurmstepd-h100-1: error: pyxis:     curl: (7) Failed to connect to 127.0.0.1 port 9 after 0 ms: Couldn't connect to server",
    ),
    ("image-anonymous", "[INFO] Authenticating with user: <anonymous>"),
    ("image", "slurmstepd-h100-1: error: pyxis: container start failed with error code: 127"),
)

BY_DOCKER = (
    ("image-file", "Error: 127.0.0.1:9/a/b:1: image not known"),
    (
        "no-internet",
        'docker: Error response from daemon: Get "http://127.0.0.1:9/v2/": dial tcp 127.0.0.1:9: connect: connection refused.',
    ),
    (
        "mount",
        'docker: Error response from daemon: invalid mount config for type "bind": bind source path does not exist: /nosuch.',
    ),
    ("mount", "Error: statfs /nosuch: no such file or directory"),
    ("container-gpus", "Error: setting up CDI devices: unresolvable CDI devices nvidia.com/gpu=0"),
    (
        "container-gpus",
        'docker: Error response from daemon: could not select device driver "" with capabilities: [[gpu]].',
    ),
    ("container-daemon", "docker: Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is it running?"),
)


@pytest.mark.parametrize(
    ("runtime", "key", "line"),
    [
        *(("apptainer", *row) for row in BY_APPTAINER),
        *(("podman", *row) for row in BY_DOCKER),
        *(("pyxis", *row) for row in BY_PYXIS),
    ],
    ids=lambda word: word[:24],
)
def test_a_runtimes_lines_are_read_as_what_they_mean(runtime: str, key: str, line: str) -> None:
    found = diagnose([Log("a.0.log", f"fine\n{line}\n")], 0, causes({**PLAN, "runtime": runtime}, "slurm"))
    assert (found.key, found.line) == (key, line)


@pytest.mark.parametrize(("key", "line"), LINES, ids=lambda word: word[:24])
def test_a_line_is_read_as_what_it_means(key: str, line: str) -> None:
    found = diagnose([Log("a.0.log", f"fine\n{line}\n")], 0, OWN)
    assert (found.key, found.line) == (key, line)
    assert found.meaning


def test_every_cause_has_a_line_and_something_to_do() -> None:
    plugins: list[Engine | Runtime | Scheduler] = [*ENGINES.values(), *RUNTIMES.values(), *SCHEDULERS.values()]
    everything = [*GENERAL, *(cause for plugin in plugins for cause in plugin.causes)]
    assert {cause.key for cause in everything} == {key for key, _ in (*LINES, *BY_APPTAINER, *BY_DOCKER, *BY_PYXIS)}
    assert [cause.key for cause in everything if not cause.advice] == ["cancelled"]


def test_a_program_that_is_missing_is_named() -> None:
    for line in (line for key, line in LINES if key == "program-missing"):
        name = next(word for word in ("python3", "python", "trtllm-serve") if word in line)
        assert f"the program {name} is not there" in diagnose([Log("a.0.log", line)], 0, OWN).meaning


OURS = """\
srun: warning: TaskPlugin lacks support for cpu binding
slurmstepd: error: *** STEP 48213.0 ON h100-1 CANCELLED AT 2026-11-21T12:00:00 DUE to SIGNAL Killed ***
slurmstepd-h100-1: error: *** JOB 48213 ON h100-1 CANCELLED AT 2026-11-21T12:00:00 ***
srun: error: h100-1: task 0: Terminated
srun: Force Terminated StepId=48213.0
srun: forcing job termination
"""


def test_what_our_own_end_writes_is_no_evidence() -> None:
    assert diagnose([Log("slurm-7.log", OURS)], None, OWN).line == ""
    assert diagnose([Log("slurm-7.log", f"the last word\n{OURS}")], None, OWN).line == "the last word"


def test_a_follower_explains_only_what_nothing_else_does() -> None:
    lost = "NCCL WARN Net : Connection closed by remote peer\n"
    aborted = "srun: Job step aborted: Waiting up to 32 seconds\n"
    broken = "CUDA out of memory. Tried to allocate 2 GiB\n"
    logs = [Log("a.0.log", lost), Log("b.9.log", lost + broken), Log("slurm-7.log", aborted)]
    assert diagnose(logs, 0, OWN).key == "gpu-memory"
    assert diagnose(logs[:1] + logs[2:], 0, OWN).key == "nccl-follower"
    assert diagnose(logs[2:], None, OWN).key == "step"


def test_what_pyxis_says_first_is_not_why() -> None:
    first = "slurmstepd-h100-1: error: pyxis: failed to create container filesystem for image: /nosuch.sqsh\n"
    log = Log("a.0.log", f"{first}{BY_PYXIS[0][1]}\nslurmstepd-h100-1: error: Failed to invoke spank plugin stack\n")
    assert diagnose([log], 0, OWN).key == "image-file"
    assert diagnose([Log("a.0.log", first)], 0, OWN).key == "image"
    asked = "[INFO] Authenticating with user: <anonymous>\n"
    full = "mksquashfs: Failed to write to output filesystem\n"
    assert diagnose([Log("import.log", asked + full)], 0, OWN).key == "image-disk"


def test_one_endless_line_is_read_in_no_time() -> None:
    endless = Log("a.0.log", "x" * 5_000_000 + " CUDA out of memory")
    assert diagnose([endless], 0, OWN).key == ""


def test_signals_are_said_in_words() -> None:
    assert "memory" in status_in_words(137)
    assert status_in_words(159) == "signal 31"
    assert (status_in_words(1), status_in_words(0), status_in_words(255)) == ("", "", "")
