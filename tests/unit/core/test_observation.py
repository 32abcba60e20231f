from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from nemodeploy.core import observation, run_directory
from nemodeploy.core.remains import parse_remains, remains_script
from nemodeploy.values import Token

TOKEN = Token.make("demo", milliseconds=1, entropy=2)
MANIFEST = json.dumps({"plan": {"model": "m", "layout": {"gpus": 16}, "prompting": {"stop": []}}})
HEALTH = '{"schema":"nemodeploy/health@1","epoch":"7.0","elapsed_s":3,"phase":"loading","ranks_joined":16,"ranks":16}'


def tree(root: Path, token: Token = TOKEN, **files: str) -> None:
    directory = root / "deployments/demo" / str(token)
    (directory / "submit").mkdir(parents=True)
    (directory / "epochs/7.0").mkdir(parents=True)
    (directory / "current").symlink_to("epochs/7.0")
    for name, text in files.items():
        (directory / name.replace("__", "/").replace("_json", ".json").replace("_rc", ".rc")).write_text(text)
    (directory.parent / "active").symlink_to(str(token))


def listing(root: Path) -> tuple[observation.RunDirectory, ...]:
    script = run_directory.list_script(str(root))
    done = subprocess.run(["sh", "-s"], input=script, capture_output=True, text=True, check=True)
    return observation.parse_list(done.stdout)


def test_a_run_directory_is_read_back(tmp_path: Path) -> None:
    tree(
        tmp_path,
        manifest_json=MANIFEST,
        current__health_json=HEALTH,
        submit__sbatch_rc="0",
    )
    (tmp_path / f"deployments/demo/{TOKEN}/submit/go").mkdir()
    found = listing(tmp_path)[0]
    assert (found.token, found.plan["model"], found.submitted, found.submit_status) == (TOKEN, "m", True, 0)
    assert found.health
    assert (found.health.phase, found.health.ranks_joined, str(found.health.epoch)) == ("loading", 16, "7.0")
    assert found.endpoint is None


def test_nothing_there_is_nothing(tmp_path: Path) -> None:
    assert listing(tmp_path / "nowhere") == ()


def test_last_words_cannot_reach_the_terminal() -> None:
    health = observation.read_health(
        HEALTH[:-1] + ', "said": "a.0: \\u001b]0;x\\u0007\\u0000 hi", "silent_ranks": [8, "x"]}'
    )
    assert health
    assert (health.said, health.silent_ranks) == ("a.0:  hi", (8,))
    endless = observation.read_health(HEALTH[:-1] + f', "said": "{"x" * 9999}", "silent_ranks": 7}}')
    assert endless
    assert (len(endless.said) <= 240, endless.silent_ranks) == (True, ())


def test_a_health_file_of_10_mb_is_none_and_hides_nothing_else(tmp_path: Path) -> None:
    tree(tmp_path, manifest_json=MANIFEST, current__health_json=HEALTH[:-1] + ', "x": "' + "y" * 10_000_000 + '"}')
    other = Token.make("other", milliseconds=1, entropy=2)
    tree(tmp_path / "other", other, manifest_json=MANIFEST, current__health_json=HEALTH)
    (tmp_path / "other/deployments/demo").rename(tmp_path / "deployments/other")
    big, small = listing(tmp_path)
    assert (big.token, big.health) == (TOKEN, None)
    assert small.health


def test_a_successor_is_live_too(tmp_path: Path) -> None:
    later = Token.make("demo", milliseconds=9, entropy=2)
    tree(tmp_path, manifest_json="{}")
    directory = tmp_path / "deployments/demo"
    (directory / str(later)).mkdir()
    (directory / str(later) / "manifest.json").write_text("{}")
    (directory / f"after.{TOKEN}").symlink_to(str(later))
    assert [found.token for found in listing(tmp_path)] == [TOKEN, later]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '"text"', '{"epoch": 7}', '{"epoch": "7.0"}', '{"epoch":"x.y","phase":"p"}', "\x00", "[" * 9999],
)
def test_torn_or_foreign_health_is_no_health(text: str) -> None:
    assert observation.read_health(text) is None


@pytest.mark.parametrize("host", ["", "a b", "$(reboot)", "-x", "h" * 300])
def test_an_endpoint_with_a_strange_host_is_none(host: str) -> None:
    text = json.dumps({"epoch": "7.0", "host": host, "port": 1424})
    assert observation.read_endpoint(text) is None


@pytest.mark.parametrize("port", [0, -1, 70000, "1424", None, True])
def test_an_endpoint_with_a_strange_port_is_none(port: object) -> None:
    assert observation.read_endpoint(json.dumps({"epoch": "7.0", "host": "h", "port": port})) is None


def test_a_newer_manifest_is_known_as_such(tmp_path: Path) -> None:
    tree(tmp_path, manifest_json='{"schema": "nemodeploy/manifest@2"}')
    assert listing(tmp_path)[0].from_newer_version


def test_what_is_up_is_found_among_thousands_of_names_that_nobody_has_any_more(tmp_path: Path) -> None:
    """More than a program can be given as arguments, which is little here: a quarter of the stack's limit."""
    tree(tmp_path, manifest_json=MANIFEST[:-1] + ', "owner": "me@here"}')
    for number in range(1200):
        directory = tmp_path / f"deployments/{'a' * 50}-{number}"
        directory.mkdir()
        (directory / "active").symlink_to("nothing")

    def told(script: str) -> str:
        words = ["sh", "-c", "ulimit -s 256; exec sh -s"]
        return subprocess.run(words, input=script, capture_output=True, text=True, check=True).stdout

    assert [one.token for one in observation.parse_list(told(run_directory.list_script(str(tmp_path))))] == [TOKEN]
    remains = parse_remains(told(remains_script(str(tmp_path))))
    assert ([*remains.unlinked], [*remains.owners]) == ([TOKEN], [TOKEN])
