from __future__ import annotations

from dataclasses import replace

import pytest

from nemodeploy.core import planning
from nemodeploy.core.spec import Gpu, Hardware, Spec
from nemodeploy.engines import ENGINES
from nemodeploy.errors import BadInput
from tests.unit.core.test_decode import draft, spec

NEMO = ENGINES["nemo-eval"]


def memory(found: Spec) -> planning.Memory:
    return planning.plan_memory(found, ENGINES[found.engine])


def test_the_340b_holds_39_7_gib_of_weights_on_each_of_16_gpus() -> None:
    assert memory(spec()).weights_gib_per_gpu == pytest.approx(39.7, abs=0.1)
    assert memory(spec()).fits


def test_kv_cache_of_128_full_sequences_is_18_gib() -> None:
    found = spec("serving: {max_batch: 128}")
    assert memory(found).kv_cache_gib_per_gpu == pytest.approx(18.0)


def test_one_node_of_eight_80_gb_gpus_is_refused_with_need_have_and_where_it_would_fit() -> None:
    wanted = draft("nodes: 1\nlayout: {pipeline_parallel: 1}")
    bigger = Hardware(name="h200x8", gpu=Gpu(type="h200", memory_gib=140.4), nodes=1, gpus_per_node=8)
    too_small = replace(bigger, name="no", gpu=Gpu(type="h100", memory_gib=40))
    with pytest.raises(BadInput, match=r"would have to hold 79\.7 GiB, and 73\.6 GiB are usable") as caught:
        planning.decide(wanted, NEMO, (too_small, bigger))
    assert "h200x8" in caught.value.hint
    assert "weights 79.4 GiB" in caught.value.detail[0]


def test_fp32_parameters_do_not_fit_on_sixteen_gpus_of_80_gb() -> None:
    with pytest.raises(BadInput, match="does not fit"):
        spec("options: {nemo-eval: {megatron_amp_O2: false}}")


def test_one_node_of_eight_h200_holds_it() -> None:
    found = spec("nodes: 1\nlayout: {pipeline_parallel: 1}\ngpu: {type: h200, memory_gib: 140.4}")
    assert memory(found).fits


def test_a_layout_that_does_not_divide_names_its_origin() -> None:
    with pytest.raises(BadInput) as caught:
        spec("layout: {tensor_parallel: 7, pipeline_parallel: 5}")
    text = "\n".join(caught.value.detail)
    assert "mine.yaml:1" in text
    assert "7 does not divide 96 attention heads" in text
    assert "TP 7 x PP 5 is 35 ranks, but 2 nodes x 8 GPUs are 16" in text


@pytest.mark.parametrize("tensor", [1, 2, 4, 8])
def test_what_is_given_stays_and_the_rest_follows(tensor: int) -> None:
    wanted = draft(f"gpu: {{memory_gib: 1000.0}}\nlayout: {{tensor_parallel: {tensor}}}")
    open_pipeline = replace(wanted, choices=replace(wanted.choices, pipeline_parallel=None))
    layout = planning.decide(open_pipeline, NEMO).layout
    assert (layout.tensor_parallel, layout.pipeline_parallel) == (tensor, 16 // tensor)


def test_tensor_parallelism_crosses_nodes_only_on_a_fast_link() -> None:
    layout = "engine: vllm\nlayout: {tensor_parallel: 16, pipeline_parallel: 1}"
    with pytest.raises(BadInput, match="crosses nodes of 8 GPUs"):
        spec(layout)
    assert spec(f"{layout}\nfast_link: true").layout.tensor_parallel == 16


def test_layers_that_differ_in_kv_heads_count_as_they_are() -> None:
    found = spec(
        "gpu: {type: h100, memory_gib: 79.6, fp8: true}\nnodes: 1\ngpus_per_node: 1\nengine: vllm\n"
        "layout: {tensor_parallel: 1, pipeline_parallel: 1}\nserving: {max_length: 8192, max_batch: 1}",
        model="llama-3.1-nemotron-51b-instruct",
    )
    assert (found.precision, sum(found.model.kv_heads)) == ("fp8", 371)
    assert planning.kv_gib_per_sequence(found) == pytest.approx(1.45, abs=0.01)


def test_kv_heads_fewer_than_gpus_are_repeated() -> None:
    cut = spec("engine: vllm\nfast_link: true\nlayout: {tensor_parallel: 16, pipeline_parallel: 1}")
    whole = spec("engine: vllm\ngpu: {memory_gib: 1000.0}\nnodes: 1\nlayout: {pipeline_parallel: 1}")
    assert planning.kv_gib_per_sequence(cut) == planning.kv_gib_per_sequence(whole)
