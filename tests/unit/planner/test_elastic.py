"""Smaller layouts: which there are, and in what order."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.planner.elastic import MOST_LAYOUTS, preference, smaller_layouts
from quarterdeck.planner.estimate import Workload
from quarterdeck.planner.hardware import builtin_catalogue
from quarterdeck.planner.layouts import broken_rule, evaluate
from quarterdeck.specs.presets import load_preset
from quarterdeck.specs.training import BatchRamp, Parallelism

LLAMA = Workload(
    architecture=load_preset("llama-3-8b"),
    vocab_size=128_256,
    sequence_length=2048,
    global_batch_size=64,
    micro_batch_size=1,
    precision="bf16",
    recompute="none",
    accelerator=builtin_catalogue().find("H100"),
    ranks_per_host=8,
    mfu=0.5,
    tokens=10**9,
)


def degrees(layouts: list[Parallelism]) -> list[tuple[int, int, int]]:
    return [(one.data, one.tensor, one.pipeline) for one in layouts]


def test_data_shrinks_first_then_the_pipeline_then_tensor_groups() -> None:
    full = Parallelism(data=2, tensor=2, pipeline=2)
    found = smaller_layouts(LLAMA, full, 2, check_memory=False)
    assert degrees(found) == [
        (1, 2, 2), (2, 2, 1), (2, 1, 2),
        (1, 2, 1), (1, 1, 2), (2, 1, 1),
    ]  # fmt: skip
    assert degrees(smaller_layouts(LLAMA, full, 4, check_memory=False)) == degrees(found)[:3]
    assert smaller_layouts(LLAMA, full, 8) == []


def test_data_must_divide_every_batch() -> None:
    full = Parallelism(data=8)
    found = smaller_layouts(LLAMA, full, 1, check_memory=False)
    assert degrees(found) == [(4, 1, 1), (2, 1, 1), (1, 1, 1)]
    ramp = replace(LLAMA, batch_ramp=BatchRamp(start=32, increment=2, samples=1000))
    assert degrees(smaller_layouts(ramp, full, 1, check_memory=False)) == [(2, 1, 1), (1, 1, 1)]


def test_what_needs_too_much_memory_is_left_out() -> None:
    full = Parallelism(data=1, tensor=8, pipeline=2, sequence=True)
    found = smaller_layouts(LLAMA, full, 1)
    assert 0 < len(found) < len(smaller_layouts(LLAMA, full, 1, check_memory=False))
    assert all(evaluate(LLAMA, layout).fits for layout in found)
    assert all(layout.sequence == (layout.tensor > 1) for layout in found)


@given(
    data=st.integers(1, 64), tensor=st.sampled_from((1, 2, 4, 8)), pipeline=st.integers(1, 16),
    least=st.integers(1, 64), batch=st.sampled_from((60, 64, 256)),
)  # fmt: skip
def test_every_layout_is_smaller_possible_and_in_order(
    data: int, tensor: int, pipeline: int, least: int, batch: int
) -> None:
    full = Parallelism(data=data, tensor=tensor, pipeline=pipeline)
    workload = replace(LLAMA, global_batch_size=batch)
    found = smaller_layouts(workload, full, least, check_memory=False)
    assert len(found) <= MOST_LAYOUTS
    for layout in found:
        assert least <= layout.ranks < full.ranks
        assert broken_rule(workload, layout) is None
        assert batch % layout.data == 0 and full.tensor % layout.tensor == 0
        assert layout.data <= data and layout.pipeline <= pipeline
        assert (layout.zero, layout.offload) == (full.zero, full.offload)
    keys = [preference(full, layout) for layout in found]
    assert keys == sorted(keys) and len(set(keys)) == len(keys)


@pytest.mark.parametrize("size", [512])
def test_a_big_gang_has_a_bounded_choice_down_to_the_least(size: int) -> None:
    workload = replace(LLAMA, global_batch_size=2520)
    full = Parallelism(data=size, tensor=8, pipeline=16)
    found = smaller_layouts(workload, full, 8, check_memory=False)
    assert len(found) == MOST_LAYOUTS
    assert found[0].ranks > full.ranks * 0.9 and found[-1].ranks == 8
