"""Gangs of several roles, and places for launchers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.scheduling.placement import Pool, by_node
from quarterdeck.scheduling.snapshot import NodeView, Part, Request

GIB = 2**30


def pool(*slots: int, memory: int = 64 * GIB) -> Pool:
    return Pool(
        NodeView(f"n{i}", "c", count, host=f"n{i}", cpus=64, memory=memory)
        for i, count in enumerate(slots)
    )


def gang(*parts: Part) -> Request:
    return Request("j", "job/j", 0, 1, data=sum(part.ranks for part in parts), parts=parts)


def test_roles_are_placed_together_and_numbered_as_they_are_written() -> None:
    request = gang(Part("small", 2, memory=GIB), Part("big", 1, memory=60 * GIB))
    placed = pool(2, 2).place(request)
    assert placed is not None
    assert [(place.rank, place.role) for place in placed] == [
        (0, "small"), (1, "small"), (2, "big"),
    ]  # fmt: skip
    small, big = {place.node_id for place in placed[:2]}, placed[2].node_id
    assert small != {big}, "what is left beside the big one holds no two small ones"


def test_all_roles_or_none() -> None:
    assert pool(2).place(gang(Part("a", 2), Part("b", 1))) is None
    assert pool(8).place(gang(Part("a", 1), Part("b", 2, memory=40 * GIB))) is None


@given(
    slots=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    ranks=st.lists(st.integers(1, 4), min_size=1, max_size=3),
)
def test_no_machine_gets_more_than_it_has(slots: list[int], ranks: list[int]) -> None:
    request = gang(*(Part(f"r{i}", count, cpus=1.0) for i, count in enumerate(ranks)))
    rooms = pool(*slots)
    placed = rooms.place(request)
    assert (placed is None) == (sum(ranks) > sum(slots))
    if placed is None:
        return
    hold = rooms.take(request, placed)
    assert [place.rank for place in placed] == list(range(sum(ranks)))
    assert all(room.slots >= 0 for room in rooms.rooms.values())
    assert sum(hold.slots.values()) == sum(ranks) == sum(hold.cpus.values())
    seats = {(place.node_id, place.local_rank) for place in placed}
    assert len(seats) == len(placed)
    merged = by_node(placed)
    assert sum(place.slots for place in merged) == sum(ranks)
    assert len({(place.role, place.node_id) for place in merged}) == len(merged)
