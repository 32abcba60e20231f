"""How names are listed: in the order in which people count, and no more of them than can be read."""

from __future__ import annotations

import re
from collections.abc import Sequence

SHOWN = 3


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """A key to sort by: d1, d2, d10. Digits compare as numbers; names that differ in zeros alone still differ."""
    parts = re.findall(r"([0-9]+)|([^0-9]+)", name)
    return (*((0, int(digits), "") if digits else (1, 0, text) for digits, text in parts), (-1, 0, name))


def counted(names: Sequence[str], shown: int = SHOWN) -> str:
    """`a, b, c and 17 more`; one more is named rather than counted."""
    if len(names) <= shown + 1:
        return ", ".join(names)
    return f"{', '.join(names[:shown])} and {len(names) - shown} more"
