"""The parsers, held against what a real Slurm says."""

from __future__ import annotations

import subprocess
import time

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nemodeploy.core.rendering import quote_for_shell
from nemodeploy.core.witnesses import Word
from nemodeploy.sandbox.cluster import Sandbox
from nemodeploy.schedulers import slurm, slurm_questions

pytestmark = pytest.mark.sandbox
TOKEN = "nd-contract-01m7ykpr9z67k4g5wp74nrf1nm"


def ask(sandbox: Sandbox, script: str) -> subprocess.CompletedProcess[str]:
    return sandbox.exec("sh", "-s", stdin=script)


def submit(sandbox: Sandbox, *options: str, wrap: str = "sleep 30") -> str:
    done = sandbox.exec("sbatch", "--parsable", f"--job-name={TOKEN}", "--output=/dev/null", *options, f"--wrap={wrap}")
    assert done.returncode == 0, done.stderr
    job_id = slurm.parse_job_id(done.stdout)
    assert job_id
    return job_id


def row(sandbox: Sandbox, job_id: str) -> slurm.QueueRow:
    done = ask(sandbox, slurm_questions.queue_script("/nowhere"))
    assert done.returncode == 0
    return next(row for row in slurm_questions.parse_queue(done.stdout) if row.job_id == job_id)


def await_state(sandbox: Sandbox, job_id: str, *states: str) -> slurm.QueueRow:
    deadline = time.monotonic() + 30
    while (found := row(sandbox, job_id)).state not in states:
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    return found


def test_a_job_is_followed_from_the_queue_to_its_end(sandbox: Sandbox) -> None:
    job_id = submit(sandbox, "-N2", "--time=00:10:00")
    running = await_state(sandbox, job_id, "RUNNING")
    assert running.name == TOKEN
    assert running.nodes
    assert running.left_s is not None
    assert 500 < running.left_s <= 600
    assert ask(sandbox, slurm.cancel_script(TOKEN, gently=False)).returncode == 0
    ended = await_state(sandbox, job_id, "CANCELLED")
    assert ended.life is slurm.Life.ENDED


def test_a_held_job_waits_with_slurms_reason(sandbox: Sandbox) -> None:
    job_id = submit(sandbox, "--hold")
    held = row(sandbox, job_id)
    assert (held.life, held.reason) == (slurm.Life.WAITING, "JobHeldUser")
    assert held.plain_reason == "JobHeldUser: held by the user"
    ask(sandbox, slurm.cancel_script(TOKEN, gently=False))


def test_a_requeued_job_has_a_new_epoch(sandbox: Sandbox) -> None:
    job_id = submit(sandbox, "--requeue")
    await_state(sandbox, job_id, "RUNNING")
    sandbox.exec("scontrol", "requeue", job_id)
    deadline = time.monotonic() + 30
    while row(sandbox, job_id).restart != 1 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert row(sandbox, job_id).restart == 1
    ask(sandbox, slurm.cancel_script(TOKEN, gently=False))


def test_other_jobs_are_not_listed(sandbox: Sandbox) -> None:
    other = sandbox.exec(
        "sbatch", "--parsable", "--job-name=theirs", "--output=/dev/null", "--wrap=true"
    ).stdout.strip()
    assert other not in ask(sandbox, slurm_questions.queue_script("/nowhere")).stdout


def trace(sandbox: Sandbox, job_id: str, token: str = TOKEN) -> Word:
    jobs = {token: (job_id, "/nowhere")}
    return slurm_questions.parse_trace(jobs, ask(sandbox, slurm_questions.trace_script(jobs)).stdout)[token].queue


def test_an_id_that_slurm_never_had_is_forgotten(sandbox: Sandbox) -> None:
    assert trace(sandbox, "1") is Word.ABSENT
    job_id = submit(sandbox, "--hold")
    assert trace(sandbox, job_id) is Word.ALIVE
    assert trace(sandbox, job_id, TOKEN[:-1] + "x") is Word.MAYBE, "a job of another name and place has it"
    jobs = {TOKEN: (job_id, "/nowhere"), TOKEN[:-1] + "x": ("1", "/nowhere")}
    both = slurm_questions.parse_trace(jobs, ask(sandbox, slurm_questions.trace_script(jobs)).stdout)
    assert [one.queue for one in both.values()] == [Word.ALIVE, Word.ABSENT], "asked for both at once"
    ask(sandbox, slurm.cancel_script(TOKEN, gently=False))


def test_another_jobs_number_is_never_cancelled(sandbox: Sandbox) -> None:
    mine, other = submit(sandbox, "--hold"), TOKEN[:-1] + "x"
    for gently in (True, False):
        ask(sandbox, slurm.cancel_script(other, gently=gently))
    assert row(sandbox, mine).state == "PENDING"
    ask(sandbox, slurm.cancel_script(TOKEN, gently=False))
    await_state(sandbox, mine, "CANCELLED")


def test_a_login_that_filters_squeue_hides_nothing(sandbox: Sandbox) -> None:
    job_id = submit(sandbox, "--hold")
    spoilt = "export SQUEUE_PARTITION=short SQUEUE_STATES=RUNNING SLURM_TIME_FORMAT=relative SLURM_CLUSTERS=else\n"
    done = ask(sandbox, spoilt + slurm.PRELUDE + slurm_questions.queue_script("/nowhere"))
    assert job_id in [row.job_id for row in slurm_questions.parse_queue(done.stdout)]
    ask(sandbox, slurm.cancel_script(TOKEN, gently=False))


LINE = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=60)


@pytest.mark.long
@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example('it\'s "a" $HOME `x` \\ #; | * é')
@example("a#b")
@example("a\\")
@given(LINE)
def test_any_word_reaches_sbatch_byte_for_byte(sandbox: Sandbox, text: str) -> None:
    word = f"|{text}|"  # squeue takes blanks off the ends
    script = f"sbatch --parsable --hold --output=/dev/null {quote_for_shell('--comment=' + word)} --wrap=true"
    job_id = ask(sandbox, script).stdout.strip()
    seen = sandbox.exec("squeue", "--noheader", "-j", job_id, "-o", "%k").stdout.rstrip("\n")
    sandbox.exec("scancel", job_id)
    assert seen == word
