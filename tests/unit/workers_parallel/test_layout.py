"""Coordinates of ranks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck_workers.parallel.layout import Layout

DEGREES = st.integers(1, 4)


@given(DEGREES, DEGREES, DEGREES)
def test_rank_is_stage_then_replica_then_slice(data: int, tensor: int, pipeline: int) -> None:
    seen = set()
    for rank in range(data * tensor * pipeline):
        layout = Layout(data, tensor, pipeline, rank)
        assert layout.rank_of(layout.stage, layout.replica, layout.slice) == rank
        assert (layout.stage * data + layout.replica) * tensor + layout.slice == rank
        seen.add((layout.stage, layout.replica, layout.slice))
    assert len(seen) == data * tensor * pipeline


@given(DEGREES, DEGREES, DEGREES)
def test_groups_cover_every_rank_once(data: int, tensor: int, pipeline: int) -> None:
    layout = Layout(data, tensor, pipeline, 0)
    for groups, size in ((layout.tensor_groups(), tensor), (layout.data_groups(), data)):
        assert {len(group) for group in groups} == {size}
        assert sorted(rank for group in groups for rank in group) == list(range(layout.ranks))


def test_the_reference_layout_keeps_a_stage_inside_a_host() -> None:
    """4 stages × 2 replicas × 4 slices on hosts of 8: host i holds stage i and both replicas."""
    for rank in range(32):
        layout = Layout(data=2, tensor=4, pipeline=4, rank=rank)
        assert layout.stage == rank // 8
    assert all(
        len({rank // 8 for rank in group}) == 1
        for group in Layout(2, 4, 4, 0).tensor_groups() + Layout(2, 4, 4, 0).data_groups()
    )


def test_too_high_a_rank_is_refused() -> None:
    with pytest.raises(ValueError, match="rank 8 is outside"):
        Layout(2, 2, 2, 8)
