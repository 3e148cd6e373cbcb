"""Which machines a gang gets: against a packing that looks at every machine at every step."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from quarterdeck.scheduling.placement import Pool
from quarterdeck.scheduling.snapshot import Hold, NodeView, Request


@st.composite
def pools(draw: st.DrawFn) -> Pool:
    machines = [
        NodeView(
            f"n{i:02}", "a", draw(st.integers(0, 9)), "H100", host=f"h{i:02}",
            cpus=draw(st.integers(5, 20)), memory=draw(st.integers(5, 20)),
        )
        for i in range(draw(st.integers(3, 12)))
    ]  # fmt: skip
    pool = Pool(machines)
    for node in machines:
        # More than it has: slots can become fewer under what runs.
        pool.hold(Hold("job/h", "a", {node.id: draw(st.sampled_from([0, 0, 1, node.slots + 1]))}))
    return pool


REQUESTS = st.builds(
    Request, id=st.just("r"), label=st.just("job/r"), priority=st.just(0), ordinal=st.just(0),
    data=st.integers(1, 4), tensor=st.integers(1, 4), pipeline=st.integers(1, 6),
    cpus=st.sampled_from([None, None, 1.0, 2.5]), memory=st.sampled_from([None, None, 1, 3]),
    avoid=st.sampled_from([frozenset(), frozenset({"n00", "n03"})]),
)  # fmt: skip


def packed(pool: Pool, request: Request, units: int, size: int) -> list[str] | None:
    """By the rule alone: the fullest machine that takes the rest, else the one that takes most."""
    takes: dict[str, Any] = {}
    for node_id, room in pool.rooms.items():
        limits = [room.slots // size]
        if request.cpus:
            limits.append(int(room.cpus // (request.cpus * size)))
        if request.memory:
            limits.append(room.memory // (request.memory * size))
        if node_id not in request.avoid and min(limits) > 0:
            takes[node_id] = min(limits)
    chosen: list[str] = []
    while units:
        enough = [node_id for node_id, count in takes.items() if count >= units]
        if not takes:
            return None
        if enough:
            node_id = min(enough, key=lambda each: pool.rooms[each].slots)
        else:
            node_id = max(takes, key=lambda each: takes[each])
        count = min(units, takes.pop(node_id))
        chosen += [node_id] * count * size
        units -= count
    return chosen


@given(pools(), REQUESTS)
@settings(max_examples=400)
def test_the_machines_are_those_of_the_rule(pool: Pool, request: Request) -> None:
    wanted = packed(pool, request, request.pipeline, request.data * request.tensor)
    if wanted is None:
        wanted = packed(pool, request, request.pipeline * request.data, request.tensor)
    placed = pool.place(request)
    assert (None if placed is None else [place.node_id for place in placed]) == wanted
    assert pool.fits(request) == (wanted is not None)


@given(pools(), st.lists(st.integers(0, 9), max_size=6), REQUESTS)
def test_machines_that_join_for_a_trial_leave_no_trace(
    pool: Pool, slots: list[int], request: Request
) -> None:
    more = [NodeView(f"+{i}", "a", count, "H100") for i, count in enumerate(slots)]
    before, free, copied = pool.place(request), pool.free, pool.joined_by(more)
    pool.join(more)
    assert (pool.place(request), pool.free) == (copied.place(request), copied.free)
    pool.part(len(more))
    assert (pool.place(request), pool.free) == (before, free)
    assert not [node_id for node_id in pool.rooms if node_id.startswith("+")]
