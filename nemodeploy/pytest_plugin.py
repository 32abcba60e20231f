"""For pytest: `nemodeploy_server`, one server for the whole session. Nothing else is imported before it is used."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from nemodeploy.api import Server

OPTIONS = (
    ("profile", "the profile that nemodeploy_server is brought up with"),
    ("cluster", "the cluster that it runs on; default: the only configured one"),
    ("model", "another model than the profile's own"),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """--nemodeploy-profile and its like."""
    group = parser.getgroup("nemodeploy", "a language model for the tests")
    for name, meaning in OPTIONS:
        group.addoption(f"--nemodeploy-{name}", metavar="NAME", help=meaning)


@pytest.fixture(scope="session")
def nemodeploy_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that has answered a prompt; taken down, verified, when the session ends."""
    chosen = {name: request.config.getoption(f"--nemodeploy-{name}") for name, _ in OPTIONS}
    if not chosen["profile"]:
        pytest.fail("nemodeploy_server needs --nemodeploy-profile NAME; nemodeploy profiles lists them", pytrace=False)
    import nemodeploy

    with _in_words(), nemodeploy.deployment(**chosen) as server:
        yield server


@contextlib.contextmanager
def _in_words() -> Iterator[None]:
    """An error of ours is its message, evidence and hint; the way through our code says nothing to who tests."""
    from nemodeploy.core.foreign import wash_line
    from nemodeploy.errors import NemodeployError

    try:
        yield
    except NemodeployError as error:
        evidence = [f"  │ {wash_line(line)}" for line in error.detail if line != error.message]
        hint = [f"  try  {wash_line(error.hint)}"] if error.hint else []
        said = "\n".join((f"nemodeploy_server: {wash_line(error.message)}", *evidence, *hint))
        raise pytest.fail.Exception(said, pytrace=False) from None
