"""Which GPU a site means by its own words: types and features are compared word by word, never by parts of a word."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping

# The types of the shipped profiles, and the GiB that each has; the first that a site's words mean counts.
SHIPPED: Mapping[str, float] = {"h200": 141, "h100": 80, "a100-40g": 40, "a100": 80}

_SLICE = re.compile(r"\dg\.\d+gb")  # of one GPU, by MIG
_SIZE = re.compile(r"(\d+)(?:g|gb|gib)")
# A feature that tells the memory of a GPU and nothing else.
_SIZE_FEATURE = re.compile(r"(?:(?:gpu|vram)[-_]?(?:mem[-_]?)?)?\d+(?:g|gb|gib)")
# What the site calls a part of a GPU's name, and no type of it.
_PART = re.compile(r"(?:sxm|hbm)\d*|pcie|nvl\d*|\d{1,3}|\d+(?:g|gb|gib)")


def means(ours: str, word: str, features: Iterable[str] = (), *, memory_gib: float = 0) -> bool:
    """Whether a site's word for a GPU (its GRES type, or nvidia-smi's name), with its nodes' features, means our type.

    The features name the type only where the word names none, as on a site whose GRES has no types. A type such as
    `a100-40g` wants that size to be said; `memory_gib` is what any other has at least, where the site says a size.
    """
    if _SLICE.search(word.lower()):
        return False
    wanted = _words(ours)
    names = {one for one in wanted if not _SIZE.fullmatch(one)}
    plain = [one.lower() for one in features]
    told = [word] if names_a_type(word) else plain
    found = any(names <= _joined(one) for one in told)
    sized = [one for one in plain if _SIZE_FEATURE.fullmatch(one) or names <= _joined(one)]
    sizes = _sizes(word, bare=True) | {size for one in sized for size in _sizes(one, bare=False)}
    sized_ours = {int(match[1]) for match in map(_SIZE.fullmatch, wanted) if match}
    if sized_ours:
        return found and bool(sized_ours & sizes)
    return found and not (sizes and max(sizes) < 0.9 * memory_gib)


def names_a_type(word: str) -> bool:
    """Whether a site's word says which GPU it is; `gpu`, `tesla` and nothing at all do not."""
    return any(any(map(str.isdigit, one)) and not _PART.fullmatch(one) for one in _words(word))


def tells(word: str, features: Iterable[str]) -> bool:
    """Whether a site says of a GPU which of the types that we know it is, by its word or by its nodes' features."""
    return names_a_type(word) or any(means(ours, word, features) for ours in SHIPPED)


def shipped(word: str, features: Iterable[str]) -> str:
    """The type of our profiles that a site's words mean; empty: none."""
    told = tuple(features)
    return next((ours for ours, size in SHIPPED.items() if means(ours, word, told, memory_gib=size)), "")


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def _joined(text: str) -> set[str]:
    """The words, and each pair of neighbours as one: `RTX 4090` is rtx4090."""
    words = _words(text)
    return {*words, *(first + second for first, second in itertools.pairwise(words))}


def _sizes(text: str, *, bare: bool) -> set[int]:
    """The sizes that it names, in GB; `bare`: numbers without a unit, too, as in a100_40."""
    found = {int(one) for one in re.findall(r"(\d+)(?:g|gb|gib)(?![a-z0-9])", text.lower())}
    return found | ({int(one) for one in _words(text)[1:] if one.isdigit()} if bare else set())
