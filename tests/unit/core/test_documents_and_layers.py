from __future__ import annotations

from nemodeploy.core.documents import Document, Origin
from nemodeploy.core.layering import from_settings, merge, profile_for


def layer(data: dict[str, object], source: str) -> Document:
    return Document(data, {(key,): Origin(source, number + 1, 1) for number, key in enumerate(data)}, source)


def test_the_later_layer_wins_and_says_so() -> None:
    merged = merge((layer({"time": "1", "nodes": 1}, "low"), layer({"nodes": 2}, "high")))
    assert merged.data == {"time": "1", "nodes": 2}
    assert str(merged.origin(("nodes",))) == "high:1"
    assert str(merged.origin(("time",))) == "low:1"


def test_mappings_are_merged_and_lists_replaced() -> None:
    low = layer({"env": {"A": "1", "B": "1"}, "mounts": ["/a"]}, "low")
    high = layer({"env": {"B": "2"}, "mounts": ["/b"]}, "high")
    assert merge((low, high)).data == {"env": {"A": "1", "B": "2"}, "mounts": ["/b"]}


def test_layers_are_not_changed_by_merging() -> None:
    low = layer({"env": {"A": "1"}}, "low")
    merge((low, layer({"env": {"A": "2"}}, "high")))
    assert low.data == {"env": {"A": "1"}}


def test_dotted_settings_reach_into_sections() -> None:
    settings = from_settings([("layout.tensor_parallel", 4, "--set layout.tensor_parallel=4")])
    merged = merge((layer({"layout": {"tensor_parallel": 8, "pipeline_parallel": 2}}, "profile"), settings))
    assert merged.data["layout"] == {"tensor_parallel": 4, "pipeline_parallel": 2}
    assert str(merged.origin(("layout", "tensor_parallel"))) == "--set layout.tensor_parallel=4"
    assert str(merged.origin(("layout", "pipeline_parallel"))) == "profile:1"


def test_engine_precision_and_layout_belong_to_the_profiles_own_model() -> None:
    profile = layer({"model": "a", "engine": "e", "precision": "p", "layout": {}, "nodes": 2}, "profile")
    assert profile_for(profile, "a") is profile
    assert profile_for(profile, "b").data == {"model": "a", "most_nodes": 2}


def test_names_with_dots_stay_whole_in_settings() -> None:
    settings = [
        ("checkpoints.llama-3.1-x.hf", "/a", "s"),
        ("checkpoints.llama-3.1-x", "/b", "s"),
        ("layout.tensor", 4, "s"),
    ]
    found = [from_settings([one], ["llama-3.1-x"]).data for one in settings]
    assert found == [
        {"checkpoints": {"llama-3.1-x": {"hf": "/a"}}},
        {"checkpoints": {"llama-3.1-x": "/b"}},
        {"layout": {"tensor": 4}},
    ]
