"""Whatever stands in a file or on the command line: a document or one clear error, never a traceback."""

from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nemodeploy.adapters import resources
from nemodeploy.adapters.yaml_files import load, parse_scalar
from nemodeploy.assembly import plugins
from nemodeploy.cli.main import run
from nemodeploy.core.schema import KINDS, schema
from nemodeploy.errors import BadInput
from tests.conftest import Home

SHIPPED = [path.read_text() for path in sorted(resources.shipped("configs").glob("*/*.yaml"))]
NAMES = sorted({key for kind in KINDS for key in schema(kind, plugins())["properties"]})
PIECES = st.sampled_from(
    [
        "{",
        "}",
        "[",
        "]",
        ": ",
        "- ",
        "\n",
        "  ",
        "\t",
        "#",
        "&a ",
        "*a",
        "!x ",
        "|\n",
        ">",
        "'",
        '"',
        "? ",
        "---\n",
        "%",
        "\0",
    ]
)
SCALARS = (
    st.sampled_from(
        ["", "~", "true", "on", "0123", "1_0", "4:00:00", "-1", "1e9", "1" * 400, ".nan", "2026-01-01", "{{x}}"]
    )
    | st.integers().map(str)
    | st.floats().map(str)
    | st.text(max_size=12)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]")
        | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), inner, max_size=3).map(
            lambda pairs: "{" + ", ".join(f"{key}: {value}" for key, value in pairs.items()) + "}"
        )
    ),
    max_leaves=6,
)


@st.composite
def files(draw: st.DrawFn) -> str:
    """A shipped file with some lines lost, some added, and some letters put in."""
    lines = draw(st.sampled_from(SHIPPED)).splitlines()
    for _ in range(draw(st.integers(0, 3))):
        if lines:
            del lines[draw(st.integers(0, len(lines) - 1))]
    for _ in range(draw(st.integers(0, 3))):
        lines.insert(draw(st.integers(0, len(lines))), f"{draw(st.sampled_from(NAMES))}: {draw(VALUES)}")
    text = "\n".join(lines)
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(text)))
        text = text[:place] + draw(PIECES | st.text(max_size=2)) + text[place:]
    return text


WORDS = st.one_of(
    st.tuples(st.just("--set"), st.builds("{}={}".format, st.sampled_from(NAMES), VALUES)),
    st.tuples(
        st.sampled_from(["--model", "--engine", "--name", "--time", "--nodes", "--cluster", "--profile"]),
        st.text(max_size=8) | st.sampled_from(["tiny", "vllm", "h100x16", "2", "1h"]),
    ),
    st.tuples(st.text(max_size=6)),
)


@pytest.fixture(autouse=True)
def _elsewhere(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep this account's own files out of it."""
    for name, value in home.environment.items():
        monkeypatch.setenv(name, value)


def written(place: str, text: str) -> str:
    path = Path(place) / "file.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    return str(path)


def loads(text: str) -> None:
    with tempfile.TemporaryDirectory() as place, contextlib.suppress(BadInput):
        load(Path(written(place, text)))
    with contextlib.suppress(BadInput):
        parse_scalar(text)


def answers(text: str, words: list[tuple[str, ...]]) -> None:
    """`plan` with the file as profile, and `validate` of it: 0 or 2, never a traceback."""
    with tempfile.TemporaryDirectory() as place:
        file = written(place, text)
        typed = [word for group in words for word in group]
        for line in (
            ["validate", file],
            ["plan", "--profile", file, *typed],
            ["plan", "--profile", "cpu", "--cluster", file],
        ):
            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = run(line, as_json=False)
            assert code in (0, 2), (line, err.getvalue())
            assert "Traceback" not in err.getvalue()


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files() | st.text())
def test_no_file_makes_the_loader_fail_otherwise(text: str) -> None:
    loads(text)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files(), st.lists(WORDS, max_size=3))
def test_no_input_makes_the_command_fail_otherwise(text: str, words: list[tuple[str, ...]]) -> None:
    answers(text, words)


@pytest.mark.long
@settings(max_examples=16_000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files() | st.text())
def test_16000_files_for_the_loader(text: str) -> None:
    loads(text)


@pytest.mark.long
@settings(max_examples=2_000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files(), st.lists(WORDS, max_size=3))
def test_6000_command_lines(text: str, words: list[tuple[str, ...]]) -> None:
    answers(text, words)
