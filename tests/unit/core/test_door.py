"""Who may come in by a port of this machine."""

from __future__ import annotations

import pytest

from nemodeploy.core.door import refusal, stranger
from nemodeploy.values import Secret

KEY = Secret("the key")
HOST, RIGHT = (b"host", b"127.0.0.1:1424"), (b"authorization", b"Bearer the key")


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:1424", "localhost", "LocalHost:80", "[::1]", "[::1]:9", " localhost "]
)
def test_a_request_with_the_key_passes_under_each_name_of_this_machine(host: str) -> None:
    assert refusal([(b"host", host.encode()), RIGHT], KEY) is None


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:1424", "127.0.0.1.evil.example", "localhost.evil.example", "evil-localhost"),
        *("", "127.0.0.2", "::1", "localhost:", "localhost:80:80", "localhost:x", "127a0b0c1", "user@localhost"),
        *("localhost\n", "10.0.0.1", "0.0.0.0", "localhost/evil"),
    ],
)
def test_another_host_is_refused_also_with_the_key(host: str) -> None:
    refused = refusal([(b"host", host.encode()), RIGHT], KEY)
    # A value is stripped first: what HTTP cannot carry is not looked for.
    assert host.strip() == "localhost" or (
        refused is not None and (refused.status, refused.code) == (403, "foreign_host")
    )


@pytest.mark.parametrize("hosts", [[], [HOST, HOST], [HOST, (b"host", b"evil.example")]])
def test_a_request_has_one_host_header(hosts: list[tuple[bytes, bytes]]) -> None:
    refused = refusal([*hosts, RIGHT], KEY)
    assert refused is not None
    assert (refused.status, refused.code) == (400, "bad_host")


@pytest.mark.parametrize(
    "origin", ["http://localhost", "https://127.0.0.1:8443", "HTTP://LOCALHOST:3000", "http://[::1]:5173"]
)
def test_a_page_of_this_machine_may_ask(origin: str) -> None:
    assert refusal([HOST, RIGHT, (b"origin", origin.encode())], KEY) is None


@pytest.mark.parametrize(
    "origin",
    [
        *("http://evil.example", "null", "", "http://localhost.evil.example", "http://127.0.0.1@evil.example"),
        *("file://localhost", "chrome-extension://abc", "http://localhost/", "http://evil.example http://localhost"),
    ],
)
def test_every_other_origin_is_refused_also_with_the_key(origin: str) -> None:
    for more in ([], [(b"origin", b"http://localhost")]):
        refused = refusal([HOST, RIGHT, *more, (b"origin", origin.encode())], KEY)
        assert refused is not None
        assert (refused.status, refused.code) == (403, "foreign_origin")


def test_the_scheme_of_the_key_is_written_in_any_case() -> None:
    assert refusal([HOST, (b"authorization", b"bearer  the key ")], KEY) is None


@pytest.mark.parametrize(
    "said", [[], [b""], [b"Bearer"], [b"Bearer another"], [b"Bearer the key2"], [b"Basic the key"], [b"the key"]]
)
def test_without_the_key_a_request_is_refused(said: list[bytes]) -> None:
    refused = refusal([HOST, *((b"authorization", one) for one in said)], KEY)
    assert refused is not None
    assert (refused.status, refused.code) == (401, "invalid_api_key")
    assert refused.headers() == {"WWW-Authenticate": "Bearer"}


def test_two_keys_are_none() -> None:
    refused = refusal([HOST, RIGHT, (b"authorization", b"Bearer another")], KEY)
    assert refused is not None
    assert refused.status == 401


def test_the_host_is_looked_at_before_the_origin_and_the_origin_before_the_key() -> None:
    evil = (b"origin", b"http://evil.example")
    for headers, code in (([(b"host", b"evil"), evil], "foreign_host"), ([HOST, evil], "foreign_origin")):
        refused = refusal(headers, KEY)
        assert refused is not None
        assert refused.code == code


def test_a_route_without_a_key_still_has_no_strangers() -> None:
    assert stranger([HOST]) is None
    assert stranger([(b"host", b"evil.example"), RIGHT]) is not None
