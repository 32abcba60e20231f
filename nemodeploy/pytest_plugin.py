"""For pytest: `nemodeploy_server`, one server for the whole session. Nothing else is imported before it is used."""

from __future__ import annotations

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
    import nemodeploy

    chosen = {name: request.config.getoption(f"--nemodeploy-{name}") for name, _ in OPTIONS}
    if not chosen["profile"]:
        raise pytest.UsageError("nemodeploy_server needs --nemodeploy-profile NAME; nemodeploy profiles lists them")
    with nemodeploy.deployment(**chosen) as server:
        yield server
