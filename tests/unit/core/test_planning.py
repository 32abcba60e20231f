from __future__ import annotations

from dataclasses import replace

import pytest

from nemodeploy.core import planning
from nemodeploy.core.spec import Gpu, Layout, Serving
from nemodeploy.errors import BadInput
from tests.unit.core.test_decode import spec


def test_the_340b_holds_39_7_gib_of_weights_on_each_of_16_gpus() -> None:
    memory = planning.plan_memory(spec(), reserve_gib=6.0)
    assert memory.weights_gib_per_gpu == pytest.approx(39.7, abs=0.1)
    assert memory.fits


def test_kv_cache_of_128_full_sequences_is_18_gib() -> None:
    wanted = replace(spec(), serving=Serving(max_length=4096, max_batch=128))
    assert planning.plan_memory(wanted, reserve_gib=6.0).kv_cache_gib_per_gpu == pytest.approx(18.0)


def test_one_node_of_eight_80_gb_gpus_is_refused_with_need_and_have() -> None:
    wanted = replace(spec(), nodes=1, layout=Layout(tensor_parallel=8, pipeline_parallel=1))
    memory = planning.plan_memory(wanted, reserve_gib=6.0)
    with pytest.raises(BadInput, match=r"would have to hold .* usable"):
        planning.check(wanted, memory, [])


def test_one_node_of_eight_h200_holds_it() -> None:
    wanted = replace(
        spec(), nodes=1, layout=Layout(tensor_parallel=8, pipeline_parallel=1), gpu=Gpu(type="h200", memory_gib=140.4)
    )
    assert planning.plan_memory(wanted, reserve_gib=6.0).fits


def test_a_layout_that_does_not_divide_names_its_origin() -> None:
    wanted = replace(spec(), layout=Layout(tensor_parallel=7, pipeline_parallel=5))
    memory = planning.plan_memory(wanted, reserve_gib=6.0)
    with pytest.raises(BadInput) as caught:
        planning.check(wanted, memory, [])
    assert len(caught.value.detail) == 2
    assert "base.yaml:6" in caught.value.detail[0]
    assert "7 does not divide 96 attention heads" in caught.value.detail[0]
