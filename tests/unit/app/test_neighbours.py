"""One run directory with anything in it hides no other one, and keeps no command from its work."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nemodeploy.app import reap, status
from nemodeploy.app.down import living
from nemodeploy.cli.status import _detail, _row
from nemodeploy.core import observation
from nemodeploy.core.observation import parse_list
from nemodeploy.core.readiness import Seen, State, Verdict
from nemodeploy.values import Token
from tests.unit.app.test_site import Login, accepted, login

__all__ = ["login"]
BAD = Token.make("bad", milliseconds=5, entropy=5)
FILES = ("manifest.json", "lease", "submit/sbatch.rc", "submit/sbatch.out", "submit/sbatch.err")
EPOCH_FILES = ("health.json", "endpoint.json", "exit.json", "events.jsonl")
NUMBERS = ("1" + "0" * 400, "1e400", "-1e400", "NaN", "Infinity", "1" + "0" * 5000, "-1", "1.5e300")


@pytest.fixture
def bad(login: Login) -> Path:
    """A second deployment beside the good one, as its own job left it."""
    good = accepted(login)
    source = login.shared / "deployments/demo" / str(good)
    directory = login.shared / "deployments/bad" / str(BAD)
    (directory / "submit/go").mkdir(parents=True)
    (directory / "manifest.json").write_text((source / "manifest.json").read_text())
    epoch = directory / "epochs/9.0"
    (epoch / "logs").mkdir(parents=True)
    (directory / "current").symlink_to("epochs/9.0")
    (directory.parent / "active").symlink_to(str(BAD))
    (directory / "submit/sbatch.out").write_text("9\n")
    record = {"epoch": "9.0", "phase": "serving", "elapsed_s": 3, "ranks_joined": 1, "ranks": 1, "generated": True}
    (epoch / "health.json").write_text(json.dumps(record))
    (epoch / "endpoint.json").write_text(json.dumps({"epoch": "9.0", "host": "h", "port": 1, "generation_ms": 5}))
    (epoch / "exit.json").write_text(json.dumps({"epoch": "9.0", "cause": "server_exited", "elapsed_s": 3}))
    return directory


def everything_works(login: Login) -> None:
    """Each command that looks at all deployments sees the good one, and shows both."""
    assert len(living(login.site(), None).tokens) == 2
    found = status.status(login.site())
    assert [one.name for one in found] == ["bad", "demo"]
    for one in found:
        json.dumps(one.as_json())
        assert _row(one)
        told = status.detail(login.site(), one)
        json.dumps(told.as_json())
        assert _detail(one, told, utc=True)
    put_away = login.shared / "archive" / str(BAD)
    if put_away.exists():  # its end was proven
        put_away.rename(login.shared / "deployments/bad" / str(BAD))
    reap.survey(login.site(), login.ports(), "me@here", older_than_s=9.0)


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(
    ("file", "key"), [("endpoint", "generation_ms"), ("health", "elapsed_s"), ("exit", "elapsed_s")]
)
def test_a_number_without_bounds_hides_no_neighbour(login: Login, bad: Path, file: str, key: str, number: str) -> None:
    path = bad / f"current/{file}.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, key: "HERE"}).replace('"HERE"', number))
    everything_works(login)


@pytest.mark.parametrize("number", NUMBERS[:4])
@pytest.mark.parametrize("key", ["grace_s", "startup_budget_s", "layout", "time_s"])
def test_a_number_without_bounds_in_a_plan_hides_no_neighbour(login: Login, bad: Path, key: str, number: str) -> None:
    path = bad / "manifest.json"
    document = json.loads(path.read_text())
    document["plan"][key] = {**document["plan"]["layout"], "gpus": "HERE"} if key == "layout" else "HERE"
    path.write_text(json.dumps(document).replace('"HERE"', number))
    everything_works(login)


@pytest.mark.parametrize("name", [*FILES, *(f"epochs/9.0/{name}" for name in EPOCH_FILES), "epochs/9.0/logs/a.0.log"])
@pytest.mark.parametrize("kind", ["pipe", "directory", "loop", "endless"])
def test_what_is_no_file_of_ours_is_not_read(login: Login, bad: Path, name: str, kind: str) -> None:
    path = bad / name
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path.name)
    else:
        path.symlink_to("/dev/zero")
    everything_works(login)
    login.site().logs_of(BAD)
    login.site().manifest_of(BAD)


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def paths(value: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where a value can be put in a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, item in items for path in ((*before, key), *paths(item, (*before, key)))]


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_manifest_with_anything_in_it_can_be_shown(login: Login, data: st.DataObject) -> None:
    document = json.loads(json.dumps({"schema": "nemodeploy/manifest@1", "plan": _plan(login), "owner": "me"}))
    where = data.draw(st.sampled_from(paths(document)))
    inner = changed = copy.deepcopy(document)
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = data.draw(VALUES)
    text = f"/d\n{BAD}\n/d/bad/{BAD}/submit/go\n\n==> /d/bad/{BAD}/manifest.json <==\n{json.dumps(changed)}\n"
    (directory,) = parse_list(text)
    assert 0 <= directory.grace_s <= observation.LONGEST_GRACE_S
    one = status.Deployment(
        cluster="c",
        seen=Seen(directory=directory, answered=True, row=None),
        verdict=Verdict(state=State.READY),
    )
    json.dumps(one.as_json())
    assert _row(one)
    assert _detail(one, None, utc=True)


def _plan(login: Login) -> Any:
    from nemodeploy.core.plan import manifest

    return json.loads(manifest(login.wanted.plan, login.wanted.bundle))["plan"]
