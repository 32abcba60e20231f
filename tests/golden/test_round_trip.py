"""Values from a cluster file reach the server program byte for byte, whatever is in them."""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from nemodeploy.adapters import resources
from nemodeploy.assembly import assemble
from tests.unit.core.test_decode import draft

VALUE = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60)
SHOW = 'printf "%s\\0%s" "$X" "$1" >"$OUT"'


def run_rank(place: Path, changes: dict[str, Any], **how: Any) -> None:
    """Run the script of one rank on a plain host, below `place`."""
    _, bundle = assemble(replace(draft("runtime: none"), runtime="none", **changes), resources.templates())
    script = place / "nemo_inference.sh"
    script.write_text(bundle.files["nemo_inference.sh"])
    (place / "ranks").mkdir()
    subprocess.run(["bash", script, place, place, "1424"], check=True, timeout=30, **how)


@settings(max_examples=40)
@example(value="two\nlines 'and' \"quotes\" $(id) `id` \\", word="a\\")
@given(value=VALUE, word=VALUE)
def test_environment_and_words_of_the_program_are_passed_as_they_are(value: str, word: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "out"
        program = ("sh", "-c", SHOW, "sh", word)
        run_rank(Path(place), {"environment": {"X": value, "OUT": str(out)}, "program": program})
        assert out.read_bytes().decode() == f"{value}\0{word}"


def test_no_heartbeat_is_written_after_a_rank_has_told_its_end(tmp_path: Path) -> None:
    """A file system may take its time: the directory belongs to others once the end is told."""
    mv = tmp_path / "bin" / "mv"
    mv.parent.mkdir()
    mv.write_text('#!/bin/sh\ncase $* in *.beat*) sleep 0.5 ;; esac\nPATH=${PATH#*:}\nexec mv "$@"\n')
    mv.chmod(0o755)
    path = f"{mv.parent}:{os.environ['PATH']}"
    # The program ends when the first heartbeat is on its way.
    program = ("sh", "-c", 'until [ -e "$0"/ranks/0.beat.new ]; do sleep 0.02; done', str(tmp_path))
    run_rank(tmp_path, {"program": program}, env=os.environ | {"PATH": path})
    assert {file.name for file in (tmp_path / "ranks").iterdir()} == {"0.beat", "0.rc"}
