from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemodeploy.core.witnesses import Trace, Word
from nemodeploy.schedulers import slurm, slurm_questions, slurm_words
from nemodeploy.schedulers.reasons import NEVER_HEALS, REASONS
from tests.unit.core.test_decode import spec

WIDTHS = [width for _, width in slurm_questions._COLUMNS]


def line(*cells: str, directory: str = "/home/me/nemodeploy/deployments/a/nd-a-0") -> str:
    return "".join(cell.ljust(width) for cell, width in zip((*cells, directory), WIDTHS, strict=True))


RUNNING = line("48213", "0", "RUNNING", "None", "1:12:00", "2:48:00", "2026-11-21T08:00:00", "nd-a-0", "h100-[1-2]")


def test_a_row_is_read_by_its_columns() -> None:
    row = slurm_questions.parse_queue(RUNNING)[0]
    assert (row.job_id, row.state, row.elapsed_s, row.left_s) == ("48213", "RUNNING", 4320, 10080)
    assert (row.nodes, row.directory) == ("h100-[1-2]", "/home/me/nemodeploy/deployments/a/nd-a-0")


def test_banners_are_no_rows() -> None:
    assert slurm_questions.parse_queue("Welcome to dgx!\n\n***\n" + RUNNING)[0].job_id == "48213"
    assert slurm_questions.parse_queue("slurm_load_jobs error: Unable to contact slurm controller") == ()


@pytest.mark.parametrize("suffix", ["", "*", "~", "#", "$", "@", "^", "+", "-"])
def test_flags_behind_a_state_are_taken_off(suffix: str) -> None:
    text = line("7", "1", f"PENDING{suffix}", "Priority", "0:00", "4:00:00", "N/A", "nd-a-0", "(Priority)")
    row = slurm_questions.parse_queue(text)[0]
    assert (row.state, row.restart, row.start, row.nodes) == ("PENDING", 1, "", "")


def test_reasons_with_spaces_stay_whole() -> None:
    text = line("7", "0", "PENDING", "launch failed requeued held", "0:00", "1:00", "N/A", "nd-a-0", "")
    row = slurm_questions.parse_queue(text)[0]
    assert row.reason == "launch failed requeued held"
    assert row.reason in NEVER_HEALS


def test_an_unknown_state_is_unknown() -> None:
    assert slurm_questions.parse_queue(RUNNING.replace("RUNNING", "FLYING "))[0].life is slurm.Life.UNKNOWN


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0:00", 0), ("1:12:00", 4320), ("2-01:00:00", 176400), ("INVALID", None), ("UNLIMITED", None), ("", None)],
)
def test_elapsed_times(text: str, seconds: int | None) -> None:
    assert slurm_questions.parse_elapsed(text) == seconds


@pytest.mark.parametrize(
    ("text", "job_id"),
    [
        ("12", "12"),
        ("12;dgx", "12"),
        ("Submitted batch job 12 on cluster dgx", "12"),
        ("--> Verifying valid submit host...OK\n--> that is fine\n12;c\n", "12"),
        ("info: 4 is a number\n", ""),
        ("", ""),
    ],
)
def test_job_ids_are_found_in_what_sbatch_prints(text: str, job_id: str) -> None:
    assert slurm.parse_job_id(text) == job_id


TOKEN = "nd-demo-01m7ykpr9z67k4g5wp74nrf1nm"
INVALID = "slurm_load_jobs error: Invalid job id specified\nsqueue 1\n"
OFF = "user 1000\nSlurm accounting storage is disabled\nsacct 1\n"
NO_SACCT = "user 1000\nsh: 1: sacct: not found\nsacct 127\n"
NO_ROW = "user 1000\n\nsacct 0\n"
DOWN = "user 1000\nsacct: error: Problem talking to the database: Connection refused\nsacct 1\n"
UNREACHABLE = "slurm_load_jobs error: Unable to contact slurm controller\nsqueue 1\n"
PLACE = f"/home/me/x/deployments/demo/{TOKEN}"


def parse_trace(job_id: str, text: str) -> Trace:
    return slurm_questions.parse_trace({TOKEN: (job_id, "/nowhere")}, text)[TOKEN]


def listed(
    state: str = "RUNNING", *, user: str = "1000", place: str = PLACE, name: str = TOKEN, number: str = "7"
) -> str:
    return f"job|{number}|{state}|{user}|{place}|{name}\nsqueue 0\n"


def accounted(row: str) -> str:
    return f"user 1000\n{row}\nsacct 0\n"


@pytest.mark.parametrize(
    ("text", "queue", "account"),
    [
        (INVALID + OFF, Word.ABSENT, Word.MISSING),
        (INVALID + NO_SACCT, Word.ABSENT, Word.MISSING),
        (INVALID + NO_ROW, Word.ABSENT, Word.ABSENT),
        (INVALID + DOWN, Word.ABSENT, Word.SILENT),
        (INVALID, Word.ABSENT, Word.SILENT),
        (INVALID + accounted(f"7|FAILED|{TOKEN}"), Word.ABSENT, Word.ENDED),
        (INVALID + accounted(f"Welcome!\n7|CANCELLED by 1000|{TOKEN}"), Word.ABSENT, Word.ENDED),
        (INVALID + accounted("7|FAILED|a name that was given later"), Word.ABSENT, Word.ENDED),
        (INVALID + accounted(f"7|RUNNING|{TOKEN}"), Word.ABSENT, Word.ALIVE),
        (INVALID + accounted(f"7|FOO|{TOKEN}"), Word.ABSENT, Word.ALIVE),
        (INVALID + accounted(f"6|FAILED|{TOKEN}"), Word.ABSENT, Word.ABSENT),
        (listed() + OFF, Word.ALIVE, Word.MISSING),
        (listed("COMPLETED") + OFF, Word.ENDED, Word.MISSING),
        (listed("FLYING") + OFF, Word.ALIVE, Word.MISSING),
        (listed(name="another") + OFF, Word.ALIVE, Word.MISSING),
        (listed(place="/elsewhere") + OFF, Word.ALIVE, Word.MISSING),
        (listed(place="/elsewhere", name="another") + OFF, Word.MAYBE, Word.MISSING),
        (listed("COMPLETED", place="/elsewhere", name="another") + OFF, Word.MAYBE, Word.MISSING),
        (listed(user="1001", place="/elsewhere", name="another") + OFF, Word.ABSENT, Word.MISSING),
        (listed(number="8") + OFF, Word.SILENT, Word.MISSING),
        ("squeue 0\n" + OFF, Word.SILENT, Word.MISSING),
        (UNREACHABLE + OFF, Word.SILENT, Word.MISSING),
        (UNREACHABLE + accounted(f"7|FAILED|{TOKEN}"), Word.SILENT, Word.ENDED),
        ("", Word.SILENT, Word.SILENT),
    ],
)
def test_each_witness_is_heard_by_itself(text: str, queue: Word, account: Word) -> None:
    trace = parse_trace("7", text)
    assert (trace.queue, trace.account, trace.job_id) == (queue, account, "7")


@pytest.mark.parametrize(
    ("text", "job_id", "account"),
    [
        (f"id {TOKEN} \n" + NO_ROW, "", Word.ABSENT),
        (f"id {TOKEN} \n" + OFF, "", Word.MISSING),
        (f"id {TOKEN} \n" + accounted(f"9|COMPLETED|{TOKEN}"), "9", Word.ENDED),
        (f"id {TOKEN} \n" + accounted(f"9|PENDING|{TOKEN}"), "9", Word.ALIVE),
        (f"id {TOKEN} \n" + accounted("9|PENDING|another"), "", Word.ABSENT),
        (f"id {TOKEN} 8\n" + listed(number="8") + OFF, "8", Word.MISSING),
    ],
)
def test_an_id_that_is_not_known_comes_from_the_claim_or_the_accounting(text: str, job_id: str, account: Word) -> None:
    trace = parse_trace("", text)
    assert (trace.job_id, trace.account) == (job_id, account)


def test_of_several_jobs_each_has_its_own_words() -> None:
    other, third = f"{TOKEN[:-1]}b", f"{TOKEN[:-1]}c"
    jobs = {TOKEN: ("7", "/a"), other: ("8", "/b"), third: ("", "/c")}
    asked = f"id {TOKEN} 7\nid {other} 8\nid {third} 9\n"
    text = asked + listed() + accounted(f"8|FAILED|{other}\n9|RUNNING|renamed")
    found = slurm_questions.parse_trace(jobs, text)
    assert [(one.job_id, one.queue, one.account) for one in found.values()] == [
        ("7", Word.ALIVE, Word.ABSENT),
        ("8", Word.ABSENT, Word.ENDED),
        ("9", Word.ABSENT, Word.ALIVE),
    ]


# What Slurm says of a cancelled job, and of the nodes that it was to have.
SACCT = """\
case $* in *,JobName*NodeList*) nodes='|NODES' ;; esac
echo "7|CANCELLED by $(id -u)|TOKEN$nodes"
"""
SINFO = """\
echo "$*" >>"$0.asked"
for said in '1|Prolog error' '1|Prolog error' '2|none' '3|batch job launch failure'; do echo "node|7|a-$said"; done
"""


def asked_with(path: Path, *, began: bool, nodes: str = "a-[1-3]", named: bool = True) -> tuple[Trace, str]:
    """What becomes of those answers, and how sinfo was asked; `named`: whether the user's number has a name."""
    programs = {
        "sacct": SACCT.replace("TOKEN", TOKEN).replace("NODES", nodes),
        "sinfo": SINFO,
        "squeue": "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1",
        "id": f"[ $1 != -un ] || {'echo ada' if named else 'exit 1'}; [ $1 != -u ] || echo 1000",
    }
    for name, text in programs.items():
        (path / name).write_text(f"#!/bin/sh\n{text}\n")
        (path / name).chmod(0o755)
    if began:
        (path / "claim").symlink_to("7")
    jobs, environment = {TOKEN: ("7", str(path))}, {**os.environ, "PATH": f"{path}:{os.environ['PATH']}"}
    script = slurm_questions.trace_script(jobs)
    done = subprocess.run(["sh"], input=script, capture_output=True, text=True, check=True, env=environment)
    asked = path / "sinfo.asked"
    return slurm_questions.parse_trace(jobs, done.stdout)[TOKEN], asked.read_text() if asked.exists() else ""


@pytest.mark.parametrize(("named", "who"), [(True, "ada (1000)"), (False, "uid (1000)")])
def test_who_cancelled_a_job_is_asked_with_its_end(tmp_path: Path, named: bool, who: str) -> None:
    trace, asked = asked_with(tmp_path, began=True, named=named)
    assert (trace.queue, trace.account, trace.state, trace.by) == (Word.ABSENT, Word.ENDED, "CANCELLED", who)
    assert (trace.failed, asked) == ("", ""), "nothing failed before a job that began"


@pytest.mark.parametrize(
    ("nodes", "failed"),
    [("a-[1-3]", "a-1: Prolog error, a-3: batch job launch failure"), ("None assigned", ""), ("", "")],
)
def test_why_a_job_never_began_is_asked_of_its_nodes(tmp_path: Path, nodes: str, failed: str) -> None:
    trace, asked = asked_with(tmp_path, began=False, nodes=nodes)
    assert (trace.failed, trace.state) == (failed, "CANCELLED")
    assert asked == (f"--noheader -N --nodes={nodes} --format=node|7|%N|%E\n" if failed else "")


@given(st.text(max_size=200), st.sampled_from(["", "7"]))
def test_no_noise_proves_an_end(text: str, job_id: str) -> None:
    trace = parse_trace(job_id, text)
    assert (trace.queue, trace.account) == (Word.SILENT, Word.SILENT)


def test_a_timed_out_submission_is_in_doubt_and_a_refusal_is_not() -> None:
    failed = "sbatch: error: Batch job submission failed: "
    assert slurm.was_refused(1, failed + "Invalid partition name specified")
    assert slurm.was_refused(255, "sbatch: error: Invalid --time specification")
    assert slurm.was_refused(1, "sbatch: error: ask for fewer nodes\n" + failed + "Unspecified error")
    assert slurm.was_refused(1, "sbatch: unrecognized option '--nods'")
    assert not slurm.was_refused(1, failed + "Socket timed out on send/recv operation")
    assert not slurm.was_refused(143, "Terminated")
    assert not slurm.was_refused(137, "")
    assert not slurm.was_refused(1, "")


@pytest.mark.parametrize(
    "said",
    [
        "Unspecified error",
        "Protocol authentication error",
        "Header lengths are longer than data received",
        "Zero Bytes were transmitted or received",
        "Connection timed out reading",
        "Invalid authentication credential",
        "Unable to contact slurm controller (send failure)",
        "I/O error writing script/environment to file",
        "words that no Slurm of today says",
    ],
)
def test_a_reply_that_was_lost_on_its_way_is_no_refusal(said: str) -> None:
    failed = "sbatch: error: Batch job submission failed: "
    assert not slurm.was_refused(1, failed + said)
    unread = "sbatch: error: Munge decode failed: Failed to connect to munged\n"
    assert not slurm.was_refused(1, unread + failed + said)


def test_the_sites_words_come_as_arguments() -> None:
    wanted = spec("slurm: {partition: gpu, account: nlp, extra_args: [--qos=high]}")
    words = slurm.Slurm().submit_words(wanted)
    assert words == ("--partition=gpu", "--account=nlp", "--gpus-per-node=8", "--qos=high")


@pytest.mark.parametrize(
    "word",
    ["--job-name=x", "--job-na=y", "-Jfoo", "-Mother", "-t0", "--time=UNLIMITED", "--test-only", "-a1-3", "--cl=b"],
)
def test_options_that_are_ours_are_refused(word: str) -> None:
    wanted = spec(f"slurm: {{extra_args: ['{word}', --qos=high]}}")
    assert [what for _, what, _ in slurm.Slurm().rules(wanted)] == [f"{word} is set by nemodeploy itself"]


@pytest.mark.parametrize(
    "word", ["--qos=high", "--reservation=x", "--comment=a", "-x", "--exclude=n1", "--mem=100G", "-q high"]
)
def test_a_sites_own_options_pass(word: str) -> None:
    assert slurm.Slurm().rules(spec(f"slurm: {{extra_args: ['{word}']}}")) == []


@pytest.mark.parametrize(
    ("request_", "fine"),
    [("--gpus-per-node=h100:8", True), ("--gres=gpu:8", True), ("-G8", True), ("--job-name=z", False), ("-t0", False)],
)
def test_a_request_for_gpus_asks_for_gpus(request_: str, fine: bool) -> None:
    rules = slurm.Slurm().rules(spec(f'gpus: {{h100: {{request: "{request_}"}}}}'))
    assert (rules == []) == fine


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ("--gpus-per-node=h100:8", "--gpus-per-node=h100:2"),
        ("--gpus-per-node=h100", "--gpus-per-node=h100:2"),
        ("--gpus-per-node=8", "--gpus-per-node=2"),
        ("--gres=gpu:h100:8,nvme:100", "--gres=gpu:h100:2,nvme:100"),
        ("--gres=gpu", "--gres=gpu:2"),
        ("--gres=gpu:8(S:0-1)", "--gres=gpu:2(S:0-1)"),
        ("--tres-per-node=gres/gpu:h100:8", "--tres-per-node=gres/gpu:h100:2"),
        ("--gpus=16", "--gpus=6"),
        ("-Gh100:16", "-Gh100:6"),
        ("--constraint=h100", "--constraint=h100"),
    ],
)
def test_a_request_takes_the_gpus_that_the_deployment_needs(request_: str, words: str) -> None:
    assert slurm.gpu_words(request_, 2, 3) == words


@pytest.mark.parametrize(
    "word", ["-H", "-sH", "--hold", "--help", "-V", "--begin=now+1year", "--gpus-per-node=1", "-pshort"]
)
def test_options_that_change_what_was_planned_are_ours(word: str) -> None:
    assert slurm._is_ours(word) or word == "-pshort"


@pytest.mark.parametrize(
    ("reason", "start", "plain"),
    [
        ("None", "N/A", "just submitted"),
        ("Priority", "2026-11-21T14:32:00", "Priority: other jobs come first · expected start 11-21 14:32"),
        (
            "AssocGrpGRES",
            "N/A",
            "AssocGrpGRES: the limit of GPUs of your account is reached; it starts when others of the",
        ),
        ("QOSMaxGRESPerUser", "N/A", "QOSMaxGRESPerUser: the limit of GPUs of the QOS for each user is"),
        ("InvalidQOS", "N/A", "InvalidQOS: there is no such QOS"),
        ("ReqNodeNotAvail, UnavailableNodes:h100-1", "N/A", "ReqNodeNotAvail, UnavailableNodes:h100-1: a node it"),
        ("SomethingNew", "N/A", "SomethingNew"),
    ],
)
def test_reasons_are_said_in_plain_words_with_the_expected_start(reason: str, start: str, plain: str) -> None:
    row = slurm_questions.parse_queue(line("7", "0", "PENDING", reason, "0:00", "1:00", start, "nd-a-0", ""))[0]
    assert row.plain_reason.startswith(plain)
    assert ("expected" in row.plain_reason) == ("expected" in plain)


def test_whatever_never_heals_is_said_in_plain_words_with_what_to_do() -> None:
    assert set(NEVER_HEALS) <= set(REASONS)
    assert all(NEVER_HEALS.values())


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("Invalid account or account/partition combination specified", "set slurm.account"),
        ("Invalid qos specification", "set slurm.qos"),
        ("You must specify an account with --account", "set slurm.account"),
        ("Requested reservation is invalid", "slurm.reservation"),
        ("Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)", "fewer --nodes"),
        ("User's group not permitted to use this partition", "ask the site"),
        ("Access/permission denied", "ask the site"),
        ("Requested partition configuration not available now", "its limits"),
        ("invalid partition specified: gpus", "set slurm.partition"),
        ("Invalid generic resource (gres) specification", "set gpus:"),
        ("Requested time limit is invalid (missing or exceeds some limit)", "--time 01:00:00"),
        ("Requested node configuration is not available", "no node has"),
        ("Invalid feature specification", "set slurm.constraint"),
        ("Something else entirely", ""),
    ],
)
def test_a_refusal_comes_with_what_to_do(said: str, advice: str) -> None:
    found = slurm.Slurm().advice_on(f"sbatch: error: Batch job submission failed: {said}")
    assert advice in found
    assert bool(found) == bool(advice)


NO_ACCOUNT = "You must specify an account with --account"
FAILED = "sbatch: error: Batch job submission failed: "


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{FAILED}Invalid qos specification\n", ("Invalid qos specification",)),
        (f"sbatch: error: {NO_ACCOUNT}\n{FAILED}Unspecified error\n", (NO_ACCOUNT, "Unspecified error")),
        (f"sbatch: error: {NO_ACCOUNT}\nallocation failure: Unspecified error\n", (NO_ACCOUNT, "Unspecified error")),
        (f"{FAILED}Unspecified error\n", ("Unspecified error",)),
        # The verdict is last, whatever the order; a line that is said twice counts once; a banner is none.
        (f"***\n{FAILED}No\nsbatch: error: one\nsbatch: two\nsbatch: error: one\n", ("one", "two", "No")),
        ("sbatch: error: lua: no\nsbatch: error: cli_filter plugin terminated with error\n",
         ("lua: no", "cli_filter plugin terminated with error")),
        ("sbatch: unrecognized option '--mpi=pmix'\nTry \"sbatch --help\" for more information\n",
         ("unrecognized option '--mpi=pmix'",)),
        ("sbatch: fatal: Invalid --mem specification\n", ("Invalid --mem specification",)),
        ("sbatch: error: \x1b[31mred\x1b[0m\n", ("red",)),
        ("Welcome\n", ()),
    ],
)  # fmt: skip
def test_every_line_of_a_refusal_is_kept_with_the_verdict_last(text: str, words: tuple[str, ...]) -> None:
    assert slurm_words.refusal_words(text) == words


def test_the_advice_names_what_the_site_has() -> None:
    choices = {"slurm.qos": ("normal", "long"), "slurm.account": ()}
    assert slurm_words.advice_on("Invalid qos specification", choices) == (
        "set slurm.qos in the cluster file: one of normal, long"
    )
    assert "sacctmgr" in slurm_words.advice_on("Invalid account or account/partition combination", choices)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("12\nSubmitted batch job 999\n", ("12", "999")),
        ("Submitted batch job 999\n12;c\n", ("12", "999")),
        ("12\nSubmitted batch job 12\n", ("12",)),
        ("7\n12\n", ("12", "7")),
        ("no number\n", ()),
    ],
)
def test_of_several_ids_sbatchs_own_line_is_the_likeliest(text: str, ids: tuple[str, ...]) -> None:
    assert slurm.parse_job_ids(text) == ids


def test_one_cluster_of_several_is_named_to_every_command(tmp_path: Path) -> None:
    named = spec("slurm: {cluster: mine, path: /opt/slurm/bin}")
    assert slurm.Slurm().submit_words(named)[0] == "--clusters=mine"
    assert "--clusters=mine" not in slurm.Slurm().submit_words(spec())
    ask = slurm.Slurm().prelude(named.cluster) + 'echo "$SLURM_CLUSTERS ${PATH%%:*}"'
    environment = {**os.environ, "SLURM_CLUSTERS": "another"}
    done = subprocess.run(["sh"], input=ask, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "mine /opt/slurm/bin\n"
    plain = slurm.Slurm().prelude(spec().cluster) + 'echo "${SLURM_CLUSTERS-none}"'
    done = subprocess.run(["sh"], input=plain, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "none\n"
    assert slurm.parse_job_id("77;mine\n") == "77"


# Slurm prints a line with the cluster's name above each answer, in some versions with --noheader, too.
ABOVE = "CLUSTER: nd-demo-1\n"


def test_the_line_that_names_a_cluster_is_no_answer(tmp_path: Path) -> None:
    fake = tmp_path / "squeue"
    scancel = tmp_path / "scancel"

    def run(script: str, *, says: str) -> str:
        fake.write_text(f"#!/bin/sh\nprintf '%s' '{ABOVE}{says}'\n")
        scancel.write_text('#!/bin/sh\necho "cancelled $*"\n')
        fake.chmod(0o755)
        scancel.chmod(0o755)
        path = f"{tmp_path}:{os.environ['PATH']}"
        return subprocess.run(
            ["sh"], input=script, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path}
        ).stdout

    errand = slurm.Slurm().errand_state_script("import")
    assert run(errand, says="") == ""
    assert run(errand, says="PENDING\n") == "PENDING\n"
    assert slurm.Slurm().parse_queue(run(slurm.Slurm().queue_script(str(tmp_path)), says="")) == ()
    renamed = slurm.cancel_script("nd-demo-1", gently=False, renamed="7")
    assert "7\n" in run(renamed, says="/root/deployments/demo/nd-demo-1\n")
    assert "quiet 7\n" not in run(renamed, says="/root/deployments/demo/nd-other-1\n")


@pytest.mark.parametrize("word", ["-M", "-Mmine", "--clusters=mine", "--cluster=mine"])
def test_a_cluster_in_extra_args_is_sent_to_its_key(word: str) -> None:
    ((key, _, instead),) = slurm.Slurm().rules(spec(f"slurm: {{extra_args: ['{word}']}}"))
    assert (key, instead) == ("slurm.extra_args", "slurm.cluster: NAME in the cluster file")
