from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemodeploy.values import Epoch, Secret, Token


@given(
    st.from_regex(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?", fullmatch=True), st.integers(0, 2**48 - 1), st.integers(0)
)
def test_a_token_keeps_its_name_and_fits_a_job_name(name: str, milliseconds: int, entropy: int) -> None:
    token = Token.make(name, milliseconds=milliseconds, entropy=entropy)
    assert token.name == name
    assert len(str(token)) <= 80


def test_later_tokens_sort_later() -> None:
    assert str(Token.make("a", milliseconds=1, entropy=2**80 - 1)) < str(Token.make("a", milliseconds=2, entropy=0))


@pytest.mark.parametrize("text", ["", "nd-a", "nd-a-123", "x", "nd-A-" + "0" * 26, "nd-a-" + "u" * 26])
def test_what_we_did_not_make_is_no_token(text: str) -> None:
    with pytest.raises(ValueError, match="not a token"):
        Token(text)


@pytest.mark.parametrize("text", ["", "7", "7.", "a.0", "7.0.0", None, 7, "7.0\n"])
def test_what_is_no_epoch(text: object) -> None:
    assert Epoch.parse(text) is None


def test_a_secret_prints_masked_everywhere() -> None:
    secret = Secret("hunter2")
    assert "hunter2" not in f"{secret} {secret!r} {secret:>20} {[secret]}"
    assert secret.reveal() == "hunter2"
