"""What a CI system says of the run that we are part of: whose it is, and what to call what it starts."""

from __future__ import annotations

import getpass
import os
import re
import secrets
import socket
from collections.abc import Mapping

from nemodeploy.errors import BadInput

LONGEST_NAME = 40
# The address of the present run: GitLab, Jenkins and Buildkite, CircleCI, Azure.
_ADDRESSES = ("CI_PIPELINE_URL", "BUILD_URL", "BUILDKITE_BUILD_URL", "CIRCLE_BUILD_URL")
# Its number: GitHub, GitLab, Jenkins, Buildkite, CircleCI, Azure.
_NUMBERS = ("GITHUB_RUN_ID", "CI_JOB_ID", "BUILD_NUMBER", "BUILDKITE_BUILD_NUMBER", "CIRCLE_BUILD_NUM", "BUILD_BUILDID")


def owner(environment: Mapping[str, str]) -> str:
    """Who a deployment belongs to: NEMODEPLOY_OWNER, the address of the CI run, or user@host."""
    chosen = environment.get("NEMODEPLOY_OWNER")
    if chosen is not None:
        if not re.fullmatch(r"[!#-\[\]-~]{1,300}", chosen):
            raise BadInput("NEMODEPLOY_OWNER must be one word of printable ASCII without quotes", hint="team-a/run-7")
        return chosen
    run = environment.get("GITHUB_RUN_ID")
    if run:
        server, repository = (environment.get(f"GITHUB_{key}", "") for key in ("SERVER_URL", "REPOSITORY"))
        found = f"{server}/{repository}/actions/runs/{run}"
    else:
        found = next(filter(None, map(environment.get, _ADDRESSES)), "")
    found = found or f"{_user()}@{socket.gethostname()}"
    return re.sub(r"[^!#-\[\]-~]", "?", found)[:300]


def name_of_its_own(name: str, environment: Mapping[str, str]) -> str:
    """A deployment name that nobody else has, so that two pipelines with the same command do not meet."""
    number = next(filter(None, (environment.get(key, "") for key in _NUMBERS)), "").lower()
    tail = secrets.token_hex(3)
    if re.fullmatch(r"[a-z0-9]{1,20}", number):
        tail = f"{number}-{tail}"
    return f"{name[: LONGEST_NAME - len(tail) - 1].rstrip('-')}-{tail}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no USER, and no such account: a container
        return f"uid-{os.getuid()}"
