"""Values from a cluster file reach the server program byte for byte, whatever is in them."""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from nemodeploy.adapters import resources
from nemodeploy.assembly import assemble
from tests.unit.core.test_decode import draft

VALUE = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60)
SHOW = 'printf "%s\\0%s" "$X" "$1" >"$OUT"'


@settings(max_examples=40, deadline=None)
@example(value="two\nlines 'and' \"quotes\" $(id) `id` \\", word="a\\")
@given(value=VALUE, word=VALUE)
def test_environment_and_words_of_the_program_are_passed_as_they_are(value: str, word: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "out"
        wanted = replace(
            draft("runtime: none"),
            runtime="none",
            environment={"X": value, "OUT": str(out)},
            program=("sh", "-c", SHOW, "sh", word),
        )
        _, bundle = assemble(wanted, resources.templates())
        script = Path(place) / "nemo_inference.sh"
        script.write_text(bundle.files["nemo_inference.sh"])
        (Path(place) / "ranks").mkdir()
        subprocess.run(["bash", str(script), place, place, "1424"], check=True, timeout=30)
        assert out.read_bytes().decode() == f"{value}\0{word}"
