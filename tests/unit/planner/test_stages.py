"""Pipeline stages: every layer once, the bottleneck as small as brute force finds."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.planner.stages import (
    layer_costs,
    partition_layers,
    stage_boundaries,
    stage_costs,
)
from quarterdeck.specs.presets import load_preset


def test_equal_layers_are_dealt_evenly() -> None:
    assert partition_layers([1.0] * 8, 4) == [0, 2, 4, 6, 8]
    assert partition_layers([1.0] * 9, 4)[-1] == 9
    assert sorted(stage_costs([1.0] * 9, partition_layers([1.0] * 9, 4))) == [2, 2, 2, 3]


def test_ties_leave_the_last_stage_short() -> None:
    assert partition_layers([1.0] * 5, 2) == [0, 3, 5]


def test_a_costly_head_takes_layers_from_the_last_stage() -> None:
    assert partition_layers([1, 1, 1, 1, 1, 4], 2) == [0, 5, 6]


def test_the_bottleneck_comes_before_evenness() -> None:
    # [15, 11, 9] has the smaller sum of squares, but a slower slowest stage.
    costs = [8, 7, 6, 5, 5, 4]
    assert stage_costs(costs, partition_layers(costs, 3)) == [8, 13, 14]


@pytest.mark.parametrize("stages", [0, 4])
def test_impossible_numbers_of_stages_are_refused(stages: int) -> None:
    with pytest.raises(ValueError, match=f"pipeline: {stages} is not between 1 and .* 3"):
        partition_layers([1, 1, 1], stages)


def test_negative_costs_are_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        partition_layers([1, -1], 1)


@given(
    costs=st.lists(st.floats(0, 100, allow_subnormal=False), min_size=1, max_size=9),
    data=st.data(),
)
def test_no_other_division_has_a_smaller_bottleneck(
    costs: list[float], data: st.DataObject
) -> None:
    stages = data.draw(st.integers(1, len(costs)))
    boundaries = partition_layers(costs, stages)
    assert boundaries[0] == 0
    assert boundaries[-1] == len(costs)
    assert len(boundaries) == stages + 1
    assert all(start < end for start, end in pairwise(boundaries))
    assert sum(stage_costs(costs, boundaries)) == pytest.approx(sum(costs))
    best = min(
        max(stage_costs(costs, [0, *cuts, len(costs)]))
        for cuts in combinations(range(1, len(costs)), stages - 1)
    )
    assert max(stage_costs(costs, boundaries)) == pytest.approx(best, rel=1e-9, abs=1e-12)


def test_stages_of_a_model_count_its_head() -> None:
    a = load_preset("llama-3-8b")
    costs = layer_costs(a, 128256, 4096)
    assert len(costs) == 32
    assert costs[-1] - costs[0] == pytest.approx(6 * 4096 * 128256)
    boundaries = stage_boundaries(a, 128256, 4096, 4)
    sizes = [end - start for start, end in pairwise(boundaries)]
    assert sum(sizes) == 32
    assert sizes[-1] < sizes[0]


def test_dense_layers_before_experts_cost_what_they_do() -> None:
    costs = layer_costs(load_preset("deepseek-v3"), 129280, 4096)
    assert costs[0] == costs[2] != costs[3] == costs[59]
