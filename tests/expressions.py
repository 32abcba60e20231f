"""What the job's own shell says of an answer."""

from __future__ import annotations

import subprocess


def matches(text: str, expression: str) -> bool:
    """Whether bash's `=~` finds the extended regular expression, as the supervisor asks it."""
    words = ["bash", "-c", "[[ $1 =~ $2 ]]", "match", text, expression]
    return subprocess.run(words, check=False).returncode == 0
