from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from nemodeploy.adapters.journal import SCHEMA, Journal, identity, read_entry
from nemodeploy.errors import BadInput
from nemodeploy.values import Token

TOKEN = Token.make("demo", milliseconds=1, entropy=2)


def test_a_note_is_one_file_that_only_the_owner_reads(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.note(TOKEN, cluster="dgx", step="intent")
    journal.note(TOKEN, step="submitted", job_id="7")
    (path,) = (tmp_path / "journal").iterdir()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == ["intent", "submitted"]
    assert path.stat().st_mode & 0o777 == 0o600
    ((entry,), wrong) = journal.entries()
    assert (entry.token, entry.cluster, entry.step, entry.job_id) == (TOKEN, "dgx", "submitted", "7")
    assert wrong == []
    journal.check()


def test_what_is_gone_is_forgotten_twice_over(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.note(TOKEN, step="intent")
    journal.forget(TOKEN)
    journal.forget(TOKEN)
    assert list((tmp_path / "journal").iterdir()) == []


def test_a_journal_that_cannot_be_written_stops_everything(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("a file where the directory should be")
    with pytest.raises(BadInput, match="cannot write the journal"):
        Journal(tmp_path).note(TOKEN, step="intent")
    with pytest.raises(BadInput, match="is no directory"):
        Journal(tmp_path).check()


def test_any_prefix_of_a_note_tells_an_earlier_truth(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    steps = ("intent", "submitted", "found")
    for step in steps:
        journal.note(TOKEN, cluster="dgx", step=step)
    data = (tmp_path / f"journal/{TOKEN}.json").read_bytes()
    seen: list[str | None] = []
    for end in range(len(data) + 1):
        entry = read_entry(str(TOKEN), data[:end])
        now = entry.step if entry else None
        if not seen or seen[-1] != now:
            seen.append(now)
    assert seen == [None, *steps]


def test_a_step_after_a_torn_one_is_whole(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.note(TOKEN, cluster="dgx", step="intent")
    path = tmp_path / f"journal/{TOKEN}.json"
    path.write_text(path.read_text() + '{"schema": "nemo')
    journal.note(TOKEN, step="submitted")
    ((entry,), wrong) = journal.entries()
    assert (entry.cluster, entry.step, wrong) == ("dgx", "submitted", [])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("garbage\n", "line 1 is damaged"),
        ("[]\n", "is not a note of"),
        (json.dumps({"schema": SCHEMA, "token": "nd-other"}) + "\n", "is not a note of"),
        (json.dumps({"schema": "nemodeploy/journal@99", "token": str(TOKEN)}) + "\n", "a newer version of nemodeploy"),
        ("\udcff\n", "can't decode"),
    ],
)
def test_what_no_crash_explains_is_refused_with_the_command_that_repairs_it(
    tmp_path: Path, text: str, why: str
) -> None:
    (tmp_path / "journal").mkdir(mode=0o700)
    path = tmp_path / f"journal/{TOKEN}.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(BadInput, match=why) as caught:
        Journal(tmp_path).check()
    assert caught.value.hint.startswith(f"rm {path} ")


def test_a_journal_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "journal"
    directory.mkdir()
    directory.chmod(0o777)
    with pytest.raises(BadInput, match="others may write") as caught:
        Journal(tmp_path).check()
    assert caught.value.hint == f"chmod 700 {directory}"


def test_a_note_is_left_only_when_its_very_process_is_gone(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.note(TOKEN, cluster="dgx", step="intent")
    ((entry,), _) = journal.entries()
    assert (entry.is_running, entry.is_left) == (True, False)
    program = (
        "import sys; from pathlib import Path; from nemodeploy.adapters.journal import Journal; "
        "from nemodeploy.values import Token; Journal(Path(sys.argv[1])).note(Token(sys.argv[2]), step='intent')"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path), str(TOKEN)], check=True)
    ((entry,), _) = journal.entries()
    assert (entry.is_running, entry.is_left) == (False, True)
    elsewhere = identity(str(os.getpid())).replace(socket.gethostname(), "another-machine")
    journal.note(TOKEN, process=elsewhere)
    ((entry,), _) = journal.entries()
    assert (entry.is_running, entry.is_left) == (False, False), "nobody here can tell"
