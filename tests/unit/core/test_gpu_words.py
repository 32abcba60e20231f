"""What a site calls a GPU, and what we take it for."""

from __future__ import annotations

import pytest

from nemodeploy.core import gpu_words


@pytest.mark.parametrize(
    ("word", "features", "ours"),
    [
        ("h100", (), "h100"),
        ("nvidia_h100_80gb_hbm3", (), "h100"),
        ("nvidia_h100_nvl", (), "h100"),
        ("NVIDIA H200", (), "h200"),
        ("nvidia_a100-sxm4-40gb", (), "a100-40g"),
        ("NVIDIA A100-SXM4-80GB", (), "a100"),
        ("a100_40", (), "a100-40g"),
        ("a100.80gb", (), "a100"),
        ("a100", ("40gb",), "a100-40g"),
        ("a100", ("gpu40g",), "a100-40g"),
        ("", ("ib", "a100_40g"), "a100-40g"),
        ("tesla", ("h100", "256gb"), "h100"),
        ("a100", ("40cores",), "a100"),
        ("", ("40cores", "a100"), "a100"),
        ("gh200", (), ""),
        ("gh200", ("h200",), ""),
        ("NVIDIA GH200 480GB", (), ""),
        ("h100x", (), ""),
        ("b200", ("h200",), ""),
        ("nvidia_a100_1g.5gb", (), ""),
        ("1g.10gb", ("a100",), ""),
        ("", ("gh200", "xh100"), ""),
        ("", (), ""),
    ],
)
def test_a_type_is_known_by_whole_words(word: str, features: tuple[str, ...], ours: str) -> None:
    assert gpu_words.shipped(word, features) == ours


@pytest.mark.parametrize(
    ("ours", "word", "size", "meant"),
    [
        ("b200", "b200", 180, True),
        ("b200", "gb200", 180, False),
        ("b200", "a100", 180, False),
        ("rtx4090", "NVIDIA GeForce RTX 4090", 24, True),
        ("a100", "a100_40g", 79.25, False),
        ("a100-40g", "a100", 39.5, False),
        ("l40", "l40s", 45, False),
    ],
)
def test_a_profile_of_ones_own_is_compared_alike(ours: str, word: str, size: float, meant: bool) -> None:
    assert gpu_words.means(ours, word, memory_gib=size) is meant
