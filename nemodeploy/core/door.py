"""Who may come in by a port that this machine opens for a deployment: decided from a request's headers alone.

Every account of the machine reaches such a port, and so does every page that its user's browser shows. The key keeps
other accounts out, Host pages whose own name leads here (DNS rebinding), and Origin all other pages.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable

from nemodeploy.core.openai_requests import Refused
from nemodeploy.values import Secret

Headers = Iterable[tuple[bytes, bytes]]  # names in lower case

_HERE = r"(?:127\.0\.0\.1|localhost|\[::1\])(?::\d{1,5})?"
_HOST = re.compile(_HERE.encode(), re.IGNORECASE)
_ORIGIN = re.compile(rf"https?://{_HERE}".encode(), re.IGNORECASE)
ADVICE = "use the URL that nemodeploy connect prints"


def refusal(headers: Headers, key: Secret) -> Refused | None:
    """Why a request may not pass: its Host, then its Origin, then its key. None: it may."""
    said = list(headers)
    return stranger(said) or keyless(said, key)


def stranger(headers: Headers) -> Refused | None:
    """Why a request may not pass, whatever key it has: another Host or Origin than this machine's. None: it may."""
    said = list(headers)
    hosts = _values(said, b"host")
    if len(hosts) != 1:
        return Refused(400, f"a request needs one Host header and has {len(hosts)}; {ADVICE}", code="bad_host")
    if not _HOST.fullmatch(hosts[0]):
        what = f"this port answers as 127.0.0.1, localhost and [::1] only, and not to this Host; {ADVICE}"
        return Refused(403, what, code="foreign_host")
    if not all(_ORIGIN.fullmatch(origin) for origin in _values(said, b"origin")):
        return Refused(403, "this port answers no web page of another Origin than this machine", code="foreign_origin")
    return None


def keyless(headers: Headers, key: Secret) -> Refused | None:
    """Why a request may not pass: it has another key, none, or several. None: it has the key."""
    said = _values(headers, b"authorization")
    scheme, _, given = said[0].partition(b" ") if len(said) == 1 else (b"", b"", b"")
    if scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), key.reveal().encode()):
        return None
    return Refused(401, "a wrong key or none; OPENAI_API_KEY as nemodeploy connect prints it", code="invalid_api_key")


def _values(headers: Headers, wanted: bytes) -> list[bytes]:
    return [value.strip() for name, value in headers if name == wanted]
