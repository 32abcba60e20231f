from __future__ import annotations

import pytest

from nemodeploy.core.diagnosis import Log, diagnose, shown


def test_the_rank_that_ended_first_is_asked_first() -> None:
    logs = [
        Log("a.0.log", "NCCL WARN remote process exited\n"),
        Log("a.3.log", "loading\nFileNotFoundError: Can't find /model\n"),
    ]
    found = diagnose(logs, 3)
    assert found.log == "a.3.log"
    assert found.line == "FileNotFoundError: Can't find /model"
    assert "not where it was said to be" in found.meaning


def test_a_known_cause_in_another_rank_beats_a_follower() -> None:
    logs = [Log("a.0.log", "Connection closed by remote peer\n"), Log("b.9.log", "CUDA out of memory. Tried\n")]
    assert diagnose(logs, 0).meaning == "the GPU ran out of memory"


def test_a_tracebacks_source_lines_are_not_its_message() -> None:
    text = "    raise FileNotFoundError(f\"Can't find {path}\")\nFileNotFoundError: Can't find /model\n"
    assert diagnose([Log("a.0.log", text)], 0).line == "FileNotFoundError: Can't find /model"


def test_a_missing_library_is_not_a_missing_file() -> None:
    line = "ImportError: libgomp.so.1: cannot open shared object file: No such file or directory"
    assert diagnose([Log("a.0.log", line)], 0).meaning == "a system library is missing on the node"


def test_an_unknown_failure_shows_its_last_error_line() -> None:
    found = diagnose([Log("a.0.log", "fine\nValueError: strange\nfine again\n")], 0)
    assert (found.line, found.meaning) == ("ValueError: strange", "")


def test_no_logs_no_guess() -> None:
    assert diagnose([], None).line == ""


def test_a_log_line_cannot_reach_the_terminal() -> None:
    assert shown("\x1b[31mred\x1b[0m\x07 \x9b2J" + "x" * 400).startswith("red " + "x")
    assert len(shown("y" * 1000)) < 310


@pytest.mark.parametrize(
    "line",
    [
        "    raise ValueError('CUDA out of memory')",
        "[rank0]:     raise ValueError('CUDA out of memory')",
        "(Worker pid=7) ERROR 11-22 01:50:24 [core.py:953]     raise ValueError('CUDA out of memory')",
        'W1122 00:45:28.105687 62627 pinned_memory_manager.cc:273] "CUDA driver version is insufficient"',
        "(EngineCore pid=43310) INFO 11-22 01:33:08 [core.py:133] Initializing with config: CUDA out of memory",
        "INFO 11-22 01:33:08 [core.py:133] Address already in use",
    ],
)
def test_source_lines_and_what_a_server_calls_a_warning_are_no_cause(line: str) -> None:
    assert diagnose([Log("a.0.log", line)], None).key == ""


@pytest.mark.parametrize("before", ["", "  ", "[rank0]: ", "(Worker pid=7) ERROR 11-22 01:50:24 [core.py:953] "])
def test_whoever_says_it_a_cause_is_found(before: str) -> None:
    assert diagnose([Log("a.0.log", f"{before}RuntimeError: CUDA out of memory")], None).key == "gpu-memory"
