from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from nemodeploy.core import sections


def run(script: str) -> str:
    return subprocess.run(["sh", "-s"], input=script, capture_output=True, text=True, check=False).stdout


def test_each_part_comes_back_with_its_status() -> None:
    answer = sections.parse("n0", run(sections.script("n0", {"one": "echo a; exit 3", "two": "echo b"})))
    assert answer["one"] == sections.Section(3, "a\n")
    assert answer["two"] == sections.Section(0, "b\n")


def test_a_later_part_finds_how_an_earlier_one_ended() -> None:
    answer = sections.parse(
        "n0", run(sections.script("n0", {"a.b": "exit 4", "one": "exit 3", "two": "echo $status_one"}))
    )
    assert [(one.status, one.text) for one in answer.values()] == [(4, ""), (3, ""), (0, "3\n")]


def test_noise_around_and_after_is_passed_over() -> None:
    text = "Welcome!\n" + run(sections.script("n0", {"one": "echo a"})) + "\ngoodbye"
    assert sections.parse("n0", text)["one"].text == "a\n"


def test_a_part_without_its_end_is_missing() -> None:
    text = run(sections.script("n0", {"one": "echo a", "two": "echo b"}))
    assert set(sections.parse("n0", text[: text.rindex("n0 END two")])) == {"one"}


@settings(max_examples=40)
@example("E\x80\n")
@example("END-OF-FILE\n")
@given(st.text(st.characters(codec="utf-8"), max_size=200))
def test_a_file_is_written_byte_for_byte(text: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        run(f"cd {directory}\n{sections.here_document('file', text)}")
        assert (Path(directory) / "file").read_bytes() == text.encode()
