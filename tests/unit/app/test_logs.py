"""Reading logs: a real shell, real files, and a job that writes between two looks."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nemodeploy.app.logs import EVERYBODY, Wanted, show
from nemodeploy.app.site import Site
from nemodeploy.core.masking import FORGET_SECRETS
from nemodeploy.errors import BadInput, ClusterUnreachable
from tests.unit.app import test_site
from tests.unit.app.test_site import Login, accepted

login = test_site.login


class Job:
    """What the ranks of a run directory write, step by step whenever the reader sleeps."""

    def __init__(self, login: Login) -> None:
        self.login, self.token = login, accepted(login)
        self.path = login.shared / "deployments/demo" / str(self.token)
        self.said: list[str] = []
        self.begin("7.0")

    def begin(self, epoch: str) -> None:
        self.run = self.path / "epochs" / epoch
        (self.run / "logs").mkdir(parents=True)
        current = self.path / "current"
        current.unlink(missing_ok=True)
        current.symlink_to(f"epochs/{epoch}")

    def write(self, text: str | bytes, rank: int = 0, node: str = "a") -> None:
        with (self.run / f"logs/{node}.{rank}.log").open("ab") as log:
            log.write(text if isinstance(text, bytes) else text.encode())

    def end(self) -> None:
        (self.run / "exit.json").write_text('{"epoch": "7.0", "cause": "cancelled", "status": 0}')

    def show(self, *steps: Callable[[], None], follow: bool = False, wanted: Wanted = EVERYBODY) -> None:
        left = list(steps)
        slept = 0

        def sleep(_: float) -> None:
            nonlocal slept
            slept += 1
            assert slept < 200, "it never ends"
            if left:
                left.pop(0)()

        show(self.login.site(), "demo", self.said.append, sleep=sleep, follow=follow, wanted=wanted)
        assert not left, "it ended too early"


@pytest.fixture
def job(login: Login) -> Job:
    return Job(login)


def test_the_last_lines_of_every_rank(job: Job) -> None:
    job.write("one\ntwo\nthree\n")
    job.write("four\x1b[31m\x00five\nhalf a li", rank=1, node="b")
    job.show(wanted=Wanted(lines=2))
    assert job.said == ["a.0 | two", "a.0 | three", "b.1 | fourfive", "b.1 | half a li"]


def test_what_srun_writes_at_every_start_takes_no_line_of_those_that_are_shown(job: Job) -> None:
    noise = "srun: cluster configuration lacks support for cpu binding\n"
    kept = ["srun: error: a: task 0: Exited with exit code 1", f"it said {noise.strip()!r}"]
    job.write(f"{noise}{kept[0]}\n{noise}{kept[1]}\n{noise}")
    job.show(wanted=Wanted(lines=2))
    assert job.said == [f"a.0 | {line}" for line in kept]


def test_of_one_rank_or_one_node(job: Job) -> None:
    for rank, node in ((0, "a"), (1, "a"), (2, "b"), (10, "b")):
        job.write(f"{node}{rank}\n", rank, node)
    (job.path / "slurm-7.log").write_text("slurm\n")
    job.show(wanted=Wanted(rank=1))
    assert job.said == ["a.1 | a1"]
    job.said.clear()
    job.show(wanted=Wanted(node="b"))
    assert job.said == ["b.10 | b10", "b.2 | b2"]


def test_following_goes_on_through_late_logs_to_the_end(job: Job) -> None:
    job.write("one\n")

    def late() -> None:
        job.write("late\n", rank=1)
        job.write("half")

    def rest() -> None:
        job.write(" a line\n")

    def last() -> None:
        job.write("end\n")
        job.end()

    job.show(late, rest, last, lambda: None, follow=True)
    assert job.said == ["a.0 | one", "a.1 | late", "a.0 | half a line", "a.0 | end"]


def test_a_connection_that_breaks_costs_no_line(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    job.write("one\n")
    real, broken = Site.ask, [5, 6]

    def ask(self: Site, *words: object, **more: object) -> object:
        broken[:] = [count - 1 for count in broken]
        if 0 in broken:
            raise ClusterUnreachable("cut")
        return real(self, *words, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Site, "ask", ask)
    job.show(lambda: job.write("two\n"), lambda: None, lambda: job.end(), lambda: None, follow=True)
    assert job.said == ["a.0 | one", "a.0 | two"]


def test_a_requeue_is_followed_into_the_next_run(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    again = [True, False]
    monkeypatch.setattr("nemodeploy.app.logs._will_run_again", lambda *_: again.pop(0))
    job.write("one\n")

    def requeue() -> None:
        job.begin("7.1")
        job.write("two\n")

    job.show(job.end, lambda: None, requeue, job.end, follow=True)
    assert job.said == ["a.0 | one", "a.0 | two"]


class Writer:
    """Two ranks that write numbered lines, many of them with a secret, in pieces that end anywhere: before each
    question, and while its answer is on its way, which is lost now and then. A requeue comes in the middle."""

    QUESTIONS, LINES = 60, 4000

    def __init__(self, job: Job, seed: int) -> None:
        self.job, self.chance, self.asked, self.runs = job, random.Random(seed), 0, 1
        lines = [f"{number} " + "hf_canary é" * (number % 3) for number in range(self.LINES)]
        self.left = {rank: "\n".join(lines).encode() for rank in (0, 1)}
        (job.path / "secrets.env").write_text("HF_TOKEN=hf_canary\n")

    def write(self, share: float) -> None:
        for rank, left in self.left.items():
            size = self.chance.randrange(1 + int(share * 2 * len(left)))
            self.job.write(left[:size], rank)
            self.left[rank] = left[size:]

    def ask(self, real: Callable[..., object], site: Site, parts: dict[str, str], **more: object) -> object:
        self.asked += 1
        self.write(0.03)
        if self.asked == self.QUESTIONS // 2:
            for rank, left in self.left.items():  # each run ends with a whole line here
                line, _, self.left[rank] = left.partition(b"\n")
                self.job.write(line + b"\n", rank)
            self.job.begin("7.1")
        if self.asked == self.QUESTIONS:
            for rank, left in self.left.items():
                self.job.write(left, rank)
            self.left = {}
            self.job.end()
        if self.asked == self.QUESTIONS + 2:
            subprocess.run(["sh", "-c", FORGET_SECRETS], check=True, cwd=self.job.path)
        if self.asked > 2 and self.chance.random() < 0.1:
            raise ClusterUnreachable("cut before it was heard")
        answer = real(site, parts, **more)
        if self.asked > 3 and self.chance.random() < 0.2:
            raise ClusterUnreachable("cut while it answered")
        return answer


@pytest.mark.parametrize("seed", [1, 2])
def test_each_line_is_shown_once_however_fast_they_come(job: Job, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    writer, real = Writer(job, seed), Site.ask
    monkeypatch.setattr(Site, "ask", lambda site, parts, **more: writer.ask(real, site, parts, **more))
    monkeypatch.setattr("nemodeploy.app.logs._will_run_again", lambda *_: False)
    monkeypatch.setattr("nemodeploy.app.logs.CHUNK_BYTES", 10_000)
    job.show(follow=True, wanted=Wanted(since_s=3600))
    for rank in (0, 1):
        shown = [line.split(" | ")[1] for line in job.said if line.startswith(f"a.{rank} | ")]
        assert [int(line.split()[0]) for line in shown] == list(range(writer.LINES))
        assert all(line.count("*") == 8 * (number % 3) for number, line in enumerate(shown))
        assert not any(part in line for line in shown for part in ("hf", "can", "ary"))


def test_a_log_that_is_masked_while_it_is_read_loses_nothing(job: Job) -> None:
    (job.path / "secrets.env").write_text("HF_TOKEN=hf_canary\n")
    job.write("one hf_canary\ntwo hf_ca")

    def mask() -> None:
        subprocess.run(["sh", "-c", FORGET_SECRETS], check=True, cwd=job.path)

    job.show(lambda: job.write("nary"), mask, job.end, lambda: None, follow=True)
    assert job.said == ["a.0 | one ********", "a.0 | two ********"]


def test_a_secret_is_hidden_where_an_endless_line_is_cut(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nemodeploy.app.logs.CHUNK_BYTES", 10_000)
    (job.path / "secrets.env").write_text("HF_TOKEN=hf_canary\n")
    job.write("hf_canary" * 5000)
    job.show(wanted=Wanted(since_s=60))
    assert len(job.said) == 4
    assert set("".join(job.said)) <= set("a.0 |* …")


def test_what_is_there_is_shown_without_a_pause(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nemodeploy.app.logs.CHUNK_BYTES", 10_000)
    job.write("".join(f"{number} {'x' * 90}\n" for number in range(500)))
    shown: list[int] = []
    job.show(lambda: shown.append(len(job.said)), job.end, lambda: None, follow=True, wanted=Wanted(since_s=60))
    assert shown == [500]


def test_earlier_runs_are_not_shown_again(job: Job) -> None:
    job.write("old\n")
    job.begin("7.1")
    job.write("new\n")
    job.show()
    assert job.said == ["a.0 | new"]


def test_since_goes_by_the_jobs_index_and_by_the_dates_of_files(job: Job) -> None:
    now = int(time.time())
    job.write("old\nolder\n")
    job.write("quiet\n", rank=1)
    job.write("x" * 100_000 + "\nnew\n")
    job.write("all of it is new\n", rank=2)
    index = f"{now - 900} 4 a.0.log\n{now - 700} 10 a.0.log\n{now - 700} 6 a.1.log\n{now - 60} 100015 a.0.log\n"
    (job.run / "logs/index").write_text(index + "what is this\n")
    (job.path / "slurm-7.log").write_text("of yesterday\n")
    os.utime(job.path / "slurm-7.log", (now - 86400, now - 86400))
    job.show(wanted=Wanted(since_s=600))
    assert [line[:20] for line in job.said] == ["a.2 | all of it is n", "a.0 | " + "x" * 14, "a.0 | new"]
    job.said.clear()
    job.show(wanted=Wanted(since_s=800))
    told = [line for line in job.said if "x" not in line]
    assert told == ["a.0 | older", "a.1 | quiet", "a.2 | all of it is new", "a.0 | new"]


def test_since_is_followed_too_and_needs_no_index(job: Job) -> None:
    job.write("one\n")
    job.show(lambda: job.write("two\n"), job.end, lambda: None, follow=True, wanted=Wanted(since_s=60))
    assert job.said == ["a.0 | one", "a.0 | two"]


def test_an_endless_line_and_a_bar_do_no_harm(job: Job) -> None:
    job.write(b"x" * 3_000_000)
    job.write("\rloading 10%\rloading 20%\n", rank=1)
    job.show()
    assert "a.1 | loading 20%" in job.said
    assert all(len(line) < 320 for line in job.said)


def test_what_has_ended_is_still_read_and_what_never_was_is_not(job: Job) -> None:
    job.write("one\n")
    job.login.site().archive({job.token: ""})
    job.show()
    assert job.said == ["a.0 | one"]
    with pytest.raises(BadInput, match="no deployment named 'other'"):
        show(job.login.site(), "other", print, sleep=lambda _: None)


def test_paths_are_data(job: Job, tmp_path: Path) -> None:
    (job.run / "logs/$(touch hacked).0.log").write_text("x\n")
    (job.run / "logs/a' b.0.log").write_text("x\n")
    job.show()
    assert not list(tmp_path.rglob("hacked"))
