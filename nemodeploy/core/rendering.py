"""Rendering templates: the only place that knows Jinja. Same input, same bytes.

Every value that leaves a template goes through one of the filters below; a test walks the syntax trees and proves it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment


def quote_for_shell(value: object) -> str:
    """One word for a POSIX shell, whatever is in it."""
    text = str(value)
    if "\0" in text:
        raise ValueError("a NUL byte cannot be passed to a program")
    return shlex.quote(text) if text else "''"


def integer(value: object) -> str:
    """Digits; anything that is not a whole number is refused."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"not a whole number: {value!r}")
    return str(value)


def duration(value: object) -> str:
    """Seconds as Slurm's `[D-]HH:MM:SS`."""
    seconds = int(integer(value))
    days, seconds = divmod(seconds, 86400)
    clock = f"{seconds // 3600:02}:{seconds % 3600 // 60:02}:{seconds % 60:02}"
    return f"{days}-{clock}" if days else clock


def identifier(value: object) -> str:
    """A name that needs no quotes anywhere: letters, digits, `_` and `-`."""
    text = str(value)
    if not re.fullmatch(r"[A-Za-z0-9_-]+", text):
        raise ValueError(f"not a plain name: {text!r}")
    return text


def comment(value: object) -> str:
    """Text that stays on its comment line."""
    return "".join(letter if letter.isprintable() else " " for letter in str(value))


def raw(value: object) -> str:
    """A line of shell that somebody has vouched for, as it is."""
    text = str(value)
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in text):
        raise ValueError(f"not one line: {text!r}")
    return text


FILTERS: Mapping[str, Callable[[object], str]] = {
    "sh": quote_for_shell,
    "integer": integer,
    "duration": duration,
    "identifier": identifier,
    "comment": comment,
    "raw": raw,
}


def environment(templates: Mapping[str, str]) -> SandboxedEnvironment:
    """Jinja over a fixed set of texts. Comment marks differ from Jinja's own, which bash's `${#name}` would open."""
    return _environment(tuple(templates.items()))


@lru_cache(maxsize=4)  # compiling the templates takes longer than rendering them
def _environment(templates: tuple[tuple[str, str], ...]) -> SandboxedEnvironment:
    from jinja2 import DictLoader, StrictUndefined  # slow to import, and most commands render nothing
    from jinja2.sandbox import SandboxedEnvironment

    made = SandboxedEnvironment(
        loader=DictLoader(dict(templates)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        comment_start_string="<#",
        comment_end_string="#>",
    )
    made.filters.update(FILTERS)
    return made


def render(templates: Mapping[str, str], name: str, **values: Any) -> str:
    """One template with its values."""
    return environment(templates).get_template(name).render(**values)
