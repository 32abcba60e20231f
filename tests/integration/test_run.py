"""`run -- COMMAND` and `connect`, on a real Slurm, sshd and server."""

from __future__ import annotations

import json
import signal
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from nemodeploy.sandbox.cluster import Sandbox
from tests.conftest import Home

pytestmark = pytest.mark.sandbox
RUN = ("run", "--profile", "cpu")
ASK = """
import json, os, sys, urllib.request
base = os.environ["OPENAI_BASE_URL"]
body = json.dumps({"model": os.environ["NEMODEPLOY_MODEL"], "prompt": "hi", "max_tokens": 4}).encode()
headers = {"Content-Type": "application/json", "Authorization": "Bearer " + os.environ["OPENAI_API_KEY"]}
request = urllib.request.Request(base + "/completions", body, headers)
print(json.load(urllib.request.urlopen(request, timeout=60))["model"], os.environ["NEMODEPLOY_NAME"], sys.stdin.read())
"""


def names(site: Home) -> list[str]:
    return [one["name"] for one in json.loads(site.run("status", "--json").stdout)["deployments"]]


def jobs(sandbox: Sandbox) -> list[str]:
    return sandbox.exec("squeue", "--noheader", "--format=%j").stdout.split()


def served(told: Mapping[str, Any], **headers: str) -> str:
    """The model behind the port that `connect` tells of, asked with its key unless `headers` have another."""
    key = f"Bearer {told['variables']['NEMODEPLOY_API_KEY']}"
    request = urllib.request.Request(f"{told['url']}/v1/models", headers={"Authorization": key, **headers})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return str(json.load(answer)["data"][0]["id"])


def test_a_command_has_a_server_for_as_long_as_it_runs(site: Home, sandbox: Sandbox, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = site.run(*RUN, "--report", str(report), "--", "python3", "-c", ASK, GITHUB_RUN_ID="4711")
    assert done.returncode == 0, done.stderr
    model, name, typed = done.stdout.rstrip("\n").split(" ")
    assert (model, typed) == ("tiny", "")
    assert name.startswith("tiny-4711-")
    assert jobs(sandbox) == []
    told = json.loads(report.read_text())
    assert (told["phase"], told["exit_code"], told["command_exit"], told["name"]) == ("done", 0, 0, name)
    assert all(told["timings"][key] > 0 for key in ("ready_s", "command_s", "down_s"))


@pytest.mark.long
def test_its_own_code_is_ours_and_nothing_is_left(site: Home, sandbox: Sandbox, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    assert site.run(*RUN, "--report", str(report), "--", "sh", "-c", "exit 7").returncode == 7
    assert jobs(sandbox) == []
    assert json.loads(report.read_text())["command_exit"] == 7


def test_a_deployment_that_is_not_ours_is_neither_used_nor_taken_down(site: Home, sandbox: Sandbox) -> None:
    token = site.up("--profile", "cpu")["token"]
    refused = site.run(*RUN, "--name", "tiny", "--", "true")
    assert (refused.returncode, "is not ours to use" in refused.stderr) == (12, True)
    reused = site.run(*RUN, "--name", "tiny", "--reuse", "--", "sh", "-c", "echo $NEMODEPLOY_NAME")
    assert (reused.returncode, reused.stdout) == (0, "tiny\n")
    assert "tiny stays up" in reused.stderr
    assert jobs(sandbox) == [token]
    connected = site.run("connect", "tiny", "--port", "0", "--", "python3", "-c", ASK)
    assert connected.stdout == "tiny tiny \n"
    assert site.run("connect", "tiny", "--", "sh", "-c", "exit 9").returncode == 9
    assert jobs(sandbox) == [token]


@pytest.mark.long
def test_two_pipelines_with_the_same_command_do_not_meet(site: Home, sandbox: Sandbox) -> None:
    both = [site.start(*RUN, "--", "sh", "-c", "echo $NEMODEPLOY_NAME; sleep 2", GITHUB_RUN_ID="1") for _ in range(2)]
    said = [process.communicate(timeout=90) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert len({out for out, _ in said}) == 2
    assert jobs(sandbox) == []


@pytest.mark.long
def test_what_failed_may_be_kept_to_look_at(site: Home, sandbox: Sandbox) -> None:
    kept = site.run(*RUN, "--name", "mine", "--keep-on-failure", "--", "false")
    assert (kept.returncode, "mine stays up; nemodeploy down mine" in kept.stderr) == (1, True)
    assert names(site) == ["mine"]
    assert site.run("down", "mine").returncode == 0
    assert site.run(*RUN, "--name", "mine", "--keep-on-failure", "--", "true").returncode == 0
    assert jobs(sandbox) == []


def test_what_cannot_be_meant_is_said_before_anything_is_sent(site: Home, tmp_path: Path) -> None:
    nowhere = site.cluster("nowhere", ssh={"host": "127.0.0.1", "port": 1})
    for words, said in (
        (("--cluster", nowhere, "--", "no-such-program"), "there is no program 'no-such-program' here"),
        (("--cluster", nowhere), "Missing argument"),
        (("--cluster", nowhere, "--reuse", "--", "true"), "--reuse without --name"),
        (("--cluster", nowhere, "--report", str(tmp_path / "no/r.json"), "--", "true"), "cannot be written"),
        (("--cluster", nowhere, "--ttl", "1s", "--", "true"), "is too short"),
    ):
        done = site.run(*RUN, *words)
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr


def test_a_tunnel_says_where_it_is_and_ends_by_ctrl_c(site: Home) -> None:
    site.up("--profile", "cpu", "--ttl", "60s")
    with site.start("connect", "tiny", "--port", "0", "--json") as tunnel:
        assert tunnel.stdout is not None
        told = json.loads(tunnel.stdout.readline())
        assert told["variables"]["OPENAI_BASE_URL"] == f"{told['url']}/v1"
        assert served(told) == "tiny"
        refusals: list[tuple[int, dict[str, str]]] = [
            (401, {"Authorization": ""}),
            (401, {"Authorization": "Bearer none"}),
            (403, {"Host": "evil.example"}),
            (403, {"Origin": "http://evil.example"}),
        ]
        for status, headers in refusals:
            with pytest.raises(urllib.error.HTTPError) as refused:
                served(told, **headers)
            assert refused.value.code == status
            refused.value.close()
        port = told["url"].rpartition(":")[2]
        taken = site.run("connect", "tiny", "--port", port)
        assert (taken.returncode, f"(process {tunnel.pid})" in taken.stderr) == (2, True), taken.stderr
        tunnel.send_signal(signal.SIGINT)
        assert tunnel.wait(20) == 0
    assert names(site) == ["tiny"]


@pytest.mark.long
def test_a_tunnel_in_the_background_is_found_again_and_stopped(site: Home) -> None:
    absent = site.run("connect", "tiny", "--background")
    assert (absent.returncode, "no deployment named 'tiny' is up" in absent.stderr) == (2, True)
    site.up("--profile", "cpu")
    words = ("connect", "tiny", "--background", "--port", "0", "--json")
    both = [site.start(*words) for _ in range(2)]  # at the same time: one of them finds the other's
    assert len({json.loads(one.communicate(timeout=60)[0])["url"] for one in both}) == 1
    first, again = (site.run(*words) for _ in range(2))
    assert first.stdout == again.stdout, "there is one already"
    url = json.loads(first.stdout)["url"]
    assert served(json.loads(first.stdout)) == "tiny"
    with pytest.raises(urllib.error.HTTPError, match="401") as refused:
        urllib.request.urlopen(f"{url}/v1/models", timeout=20)
    refused.value.close()
    assert site.run("connect", "tiny", "--stop").stdout == "the tunnel to tiny is closed\n"
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"{url}/v1/models", timeout=20)
    assert site.run("connect", "tiny", "--stop").stdout == "no tunnel to tiny is open in the background\n"
    assert site.run("connect", "tiny", "--stop", "--background").returncode == 2


@pytest.mark.long
def test_a_tunnel_ends_with_the_job(site: Home) -> None:
    site.up("--profile", "cpu", "--set", "requeue=true")
    with site.start("connect", "tiny", "--port", "0") as tunnel:
        assert tunnel.stdout is not None
        assert tunnel.stdout.readline().startswith("export NEMODEPLOY_ENDPOINT=")
        assert site.run("down", "tiny").returncode == 0
        said = site.rest_of(tunnel, 60)
        assert (tunnel.returncode, "tiny has ended" in said) == (30, True), said
