"""The key that lets OpenAI's clients in: one for each deployment, made of its token and a secret of this user's."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import secrets
from pathlib import Path

from nemodeploy.adapters import files
from nemodeploy.values import Secret, Token

FILE = "gateway.secret"
LENGTH = 32


def key_of(state: Path, token: Token) -> Secret:
    """The same again from this user's state directory; where that cannot be kept, one for this process."""
    return Secret(hmac.new(_secret(state), str(token).encode(), hashlib.sha256).hexdigest()[:48])


def _secret(state: Path) -> bytes:
    made = secrets.token_bytes(LENGTH)
    path, new = state / FILE, state / f"{FILE}.{secrets.token_hex(8)}"
    with contextlib.suppress(OSError):
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_whole(path):
            files.write_new(new, made, mode=0o600)
            with contextlib.suppress(FileExistsError):
                path.hardlink_to(new)  # whoever comes first; nobody sees half of it
            new.unlink()
        if _is_whole(path):
            return path.read_bytes()
    return made


def _is_whole(path: Path) -> bool:
    return path.is_file() and path.stat().st_size == LENGTH
