"""What the job's own shell says of an answer."""

from __future__ import annotations

import os
import subprocess

from nemodeploy.engines.answers import INVISIBLE_SED


def matches(text: str, expression: str) -> bool:
    """Whether bash's `=~` finds the extended regular expression in what can be seen, as the supervisor asks it."""
    script = 'LC_ALL=C; text=$(printf \'%s\\n\' "$1" | sed -E "$3"); [[ $text =~ $2 ]]'
    words = ["bash", "-c", script, "match", text, expression, INVISIBLE_SED]
    return subprocess.run(words, check=False, env={**os.environ, "LC_ALL": "C"}).returncode == 0
