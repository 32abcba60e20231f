"""Keys of deployments."""

from __future__ import annotations

from pathlib import Path

from nemodeploy.adapters.keys import FILE, key_of
from nemodeploy.values import Token

ONE, OTHER = (Token.make("a", milliseconds=1, entropy=entropy) for entropy in (1, 2))


def test_a_deployment_keeps_its_key_and_shares_it_with_no_other(tmp_path: Path) -> None:
    key = key_of(tmp_path / "state", ONE).reveal()
    assert len(key) == 48
    assert key_of(tmp_path / "state", ONE).reveal() == key
    assert key_of(tmp_path / "state", OTHER).reveal() != key
    assert key_of(tmp_path / "another", ONE).reveal() != key, "another user's"
    kept = tmp_path / "state" / FILE
    assert kept.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in (tmp_path / "state").iterdir()] == [FILE]


def test_where_nothing_can_be_kept_there_is_a_key_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the directory should be")
    assert len(key_of(tmp_path / "state", ONE).reveal()) == 48
    (tmp_path / FILE).write_bytes(b"half")
    assert len(key_of(tmp_path, ONE).reveal()) == 48
