"""From log lines to a likely cause. Advice only: nothing here ever decides a state."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

# Pattern, what it means, what to do. The earliest matching line of the rank that ended first wins.
TABLE: tuple[tuple[str, str, str], ...] = (
    (
        r"CUDA out of memory|OutOfMemoryError",
        "the GPU ran out of memory",
        "use more GPUs, or a smaller serving.max_batch or serving.max_length",
    ),
    (
        r"cannot open shared object file",
        "a system library is missing on the node",
        "install it there, or run the server in its container",
    ),
    (
        r"Can't find |No such file or directory|FileNotFoundError",
        "a file is not where it was said to be",
        "check the paths in the cluster file",
    ),
    (r"Address already in use|EADDRINUSE", "the port is taken on that node", "--set port=auto"),
    (
        r"devices \* num_nodes should equal|must be a multiple of tensor_model_parallel_size",
        "the layout does not match the number of processes",
        "nemodeploy plan shows the layout",
    ),
    (
        r"Could not override|is not in struct|unrecognized arguments",
        "the server program does not know an option",
        "check the image's version",
    ),
    (r"unrecognized option '--container-image", "pyxis is not installed there", "--set runtime=none, or ask the site"),
    (
        r"pyxis: failed to import|failed to create container filesystem",
        "the image could not be imported",
        "check images: in the cluster file",
    ),
    (
        r"GPU is needed for the inference|No CUDA.capable device",
        "the process sees no GPU",
        "check gpus: in the cluster file",
    ),
    (r"DUE TO TIME LIMIT", "the time limit was reached", "--set time=08:00:00"),
    (r"DUE TO NODE FAILURE|Node failure on", "a node failed", "run the same command again"),
    (
        r"ModuleNotFoundError|ImportError",
        "the server program lacks a Python package",
        "check programs: or images: in the cluster file",
    ),
)
_FOLLOWERS = re.compile(r"NCCL|remote process|Connection (closed|reset)|srun: |slurmstepd")
_SIGNS = re.compile(r"error|exception|fatal|failed|can't|cannot|killed|signal", re.IGNORECASE)
_UNSAFE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


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


def diagnose(logs: Sequence[Log], first_rank: int | None) -> Diagnosis:
    """The first cause: in the log of the rank that ended first if there is one, then in the others."""
    ordered = sorted(logs, key=lambda log: not (first_rank is not None and log.name.endswith(f".{first_rank}.log")))
    for log in ordered:
        for line in log.text.splitlines():
            if line.startswith((" ", "\t", "srun:", "slurmstepd")):  # a traceback's own source lines, and followers
                continue
            for pattern, meaning, advice in TABLE:
                if re.search(pattern, line):
                    return Diagnosis(clean(line), log.name, meaning, advice)
    return _last_sign(ordered)


def _last_sign(logs: Sequence[Log]) -> Diagnosis:
    for wanted in (
        lambda line: _SIGNS.search(line) and not _FOLLOWERS.search(line),
        lambda line: _SIGNS.search(line),
        bool,
    ):
        for log in logs:
            lines = [line for line in log.text.splitlines() if line.strip() and wanted(line)]
            if lines:
                return Diagnosis(clean(lines[-1]), log.name)
    return Diagnosis()


def clean(line: str) -> str:
    """A log line that cannot do anything to a terminal, at most 300 characters of it."""
    plain = _UNSAFE.sub("", line).strip()
    return plain if len(plain) <= 300 else plain[:300] + " …"
