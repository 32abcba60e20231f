from __future__ import annotations

import json
from pathlib import Path

import pytest

from nemodeploy.adapters.journal import Journal
from nemodeploy.errors import BadInput
from nemodeploy.values import Token

TOKEN = Token.make("demo", milliseconds=1, entropy=2)


def test_a_note_is_one_file_that_only_the_owner_reads(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.note(TOKEN, cluster="dgx", step="intent")
    journal.note(TOKEN, cluster="dgx", step="submitted", job_id="7")
    (path,) = (tmp_path / "journal").iterdir()
    assert json.loads(path.read_text())["job_id"] == "7"
    assert path.stat().st_mode & 0o777 == 0o600


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
