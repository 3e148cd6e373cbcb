"""Parts of slots: best fit, exact sums, whole slots kept whole, and what is said of the wait."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quarterdeck.scheduling.placement import Pool
from quarterdeck.scheduling.plan import plan
from quarterdeck.scheduling.snapshot import Hold, NodeView, Plan, Request, Snapshot
from quarterdeck.specs.accelerator_share import WHOLE
from quarterdeck.specs.protocol import RankPlacement

NOW = datetime(2026, 1, 1, 13, 0, tzinfo=UTC)


def machines(*slots: int, accelerator: str = "H100") -> tuple[NodeView, ...]:
    return tuple(
        NodeView(f"n{i}", "a", count, accelerator, host=f"host-{i}", cpus=8, memory=8 << 30)
        for i, count in enumerate(slots)
    )


def replica(name: str, share: int, ordinal: int = 0, **fields: Any) -> Request:
    return Request(name, f"service/{name}", 100, ordinal, share=share, **fields)


def made(nodes: Any, *requests: Request, holds: Any = ()) -> Plan:
    return plan(Snapshot({"a": True}, tuple(nodes), tuple(holds), requests), NOW)


def part_of(node: str, number: int, share: int, **fields: Any) -> Hold:
    return Hold("service/held", "a", {node: 0}, shared={node: {number: share}}, **fields)


def slots_of(answer: Plan) -> dict[str, tuple[str, int | None]]:
    return {
        one.request_id: (one.placements[0].node_id, one.placements[0].shared_slot)
        for one in answer.assignments
    }


def test_three_replicas_on_two_slots_leave_the_third_slot_whole() -> None:
    answer = made(machines(3), *(replica(n, 400, i) for i, n in enumerate("abc")),
                  Request("job", "job/job", 0, 9))  # fmt: skip
    assert slots_of(answer) == {"a": ("n0", 0), "b": ("n0", 0), "c": ("n0", 1), "job": ("n0", None)}


def test_the_slot_that_is_left_with_least_is_taken() -> None:
    holds = [part_of("n0", 0, 300), part_of("n0", 1, 550), part_of("n1", 0, 700)]
    assert slots_of(made(machines(2, 2), replica("r", 300), holds=holds)) == {"r": ("n1", 0)}
    assert slots_of(made(machines(2, 2), replica("r", 310), holds=holds)) == {"r": ("n0", 1)}


def test_a_new_shared_slot_breaks_into_the_fullest_machine() -> None:
    holds = [Hold("job/x", "a", {"n1": 3})]
    assert slots_of(made(machines(4, 4), replica("r", 500), holds=holds)) == {"r": ("n1", 0)}


def test_a_number_that_is_free_again_is_taken_again() -> None:
    holds = [part_of("n0", 1, 900)]
    assert slots_of(made(machines(3), replica("r", 200), holds=holds)) == {"r": ("n0", 0)}


def test_a_whole_gang_gets_no_shared_slot() -> None:
    answer = made(
        machines(2), Request("job", "job/job", 0, 0, data=2), holds=[part_of("n0", 0, 10)]
    )
    assert answer.assignments == ()
    assert "needs 2 H100, 1 free in cluster a" in answer.pending[0].message


def test_what_lacks_is_told_in_parts() -> None:
    holds = [part_of("n0", 0, 700), Hold("job/x", "a", {"n0": 1})]
    (pending,) = made(machines(2), replica("r", 400), holds=holds).pending
    assert pending.reason == "InsufficientSlots"
    assert pending.message == "needs 0.4 of one H100, the freest in cluster a has 0.3 left"
    (pending,) = made(machines(1, accelerator="cpu"), replica("r", 400, cpus=4.0),
                      holds=[part_of("n0", 0, 10, cpus={"n0": 5.0})]).pending  # fmt: skip
    assert pending.message == (
        "needs 0.4 of a slot, the freest in cluster a has 0.99 left, but not 4 cpus beside it"
    )


def test_a_quarantined_part_is_told_as_such() -> None:
    holds = [part_of("n0", 0, 700, quarantined=True)]
    (pending,) = made(machines(1), replica("r", 400), holds=holds).pending
    assert any("holds 0.7 slots on host-0" in fact for fact in pending.facts)


def test_a_part_that_ends_gives_its_slot_back() -> None:
    """A forecast counts parts too: the gang starts when the last part of its slot has ended."""
    ends = [NOW + timedelta(hours=1), NOW + timedelta(hours=2)]
    holds = [part_of("n0", 0, 500, ends_at=ends[0]), part_of("n0", 0, 300, ends_at=ends[1])]
    (pending,) = made(machines(1), Request("job", "job/job", 0, 0), holds=holds).pending
    assert pending.starts_at == ends[1]
    (pending,) = made(machines(1), replica("r", 600), holds=holds).pending
    assert pending.starts_at == ends[0]


# --- properties ------------------------------------------------------------------------------

SHARES = st.sampled_from([10, 250, 333, 334, 400, 500, 600, 999]) | st.integers(10, 999)


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    nodes = machines(*draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    holds: list[Hold] = []
    for node in nodes:
        whole = draw(st.integers(0, node.slots))
        if whole:
            holds.append(Hold("job/x", "a", {node.id: whole}))
        for number in range(draw(st.integers(0, node.slots - whole))):
            left = WHOLE
            while left >= 10 and draw(st.booleans()):
                share = draw(st.integers(10, left))
                holds.append(part_of(node.id, number, share))
                left -= share
    requests = []
    for i in range(draw(st.integers(0, 10))):
        if draw(st.integers(0, 2)):
            cpus = draw(st.sampled_from([None, None, 2.0]))
            requests.append(replica(f"r{i}", draw(SHARES), i, cpus=cpus))
        else:
            degree = draw(st.integers(1, 4))
            requests.append(
                Request(f"r{i}", f"job/r{i}", draw(st.integers(-1, 200)), i, data=degree)
            )
    return Snapshot({"a": True}, nodes, tuple(holds), tuple(requests))


def occupied(snapshot: Snapshot, answer: Plan) -> tuple[Any, Any]:
    """Whole slots by node, and thousandths by node and shared slot."""
    whole: dict[str, int] = defaultdict(int)
    parts: dict[tuple[str, int], int] = defaultdict(int)
    for hold in snapshot.holds:
        for node, slots in hold.slots.items():
            whole[node] += slots
        for node, shared in hold.shared.items():
            for number, share in shared.items():
                parts[node, number] += share
    for one in answer.assignments:
        for place in one.placements:
            if place.shared_slot is None:
                assert place.share == WHOLE
                whole[place.node_id] += place.slots
            else:
                parts[place.node_id, place.shared_slot] += place.share
    return whole, parts


@given(snapshots())
@settings(max_examples=300, deadline=None)
def test_no_slot_holds_more_than_one_and_no_gang_lies_on_a_shared_one(snapshot: Snapshot) -> None:
    answer = plan(snapshot, NOW)
    whole, parts = occupied(snapshot, answer)
    assert all(held <= WHOLE for held in parts.values())
    for node in snapshot.nodes:
        shared = [number for owner, number in parts if owner == node.id]
        assert whole[node.id] + len(shared) <= node.slots
        assert all(number < node.slots for number in shared)
    requests = {request.id: request for request in snapshot.requests}
    for one in answer.assignments:
        asked = requests[one.request_id]
        for place in one.placements:
            assert place.share == asked.share
            assert (place.shared_slot is None) == (asked.share == WHOLE)


@given(snapshots(), SHARES)
@settings(max_examples=200, deadline=None)
def test_a_part_opens_a_new_slot_only_where_no_shared_one_has_room(
    snapshot: Snapshot, share: int
) -> None:
    _, parts = occupied(snapshot, Plan((), ()))
    asked = replica("r", share)
    answer = plan(replace(snapshot, requests=(asked,)), NOW)
    lefts = sorted(WHOLE - held - share for held in parts.values() if held + share <= WHOLE)
    if lefts:
        (one,) = answer.assignments
        place = one.placements[0]
        assert place.shared_slot is not None
        assert WHOLE - parts[place.node_id, place.shared_slot] - share == lefts[0]


@given(st.lists(SHARES, max_size=30))
def test_packing_keeps_within_the_bound_of_best_fit(shares: list[int]) -> None:
    """Of two slots no two neighbours are both at most half full, so at most twice the sum."""
    pool = Pool(machines(40))
    for index, share in enumerate(shares):
        asked = replica(f"r{index}", share)
        placed = pool.place(asked)
        assert placed is not None
        pool.take(asked, placed)
    used = 40 - pool.free
    assert used <= max(1, 2 * -(-sum(shares) // WHOLE)) or not shares
    assert used >= -(-sum(shares) // WHOLE)


@given(snapshots())
@settings(max_examples=100, deadline=None)
def test_what_is_taken_and_given_back_leaves_the_pool_as_it_was(snapshot: Snapshot) -> None:
    pool = Pool(snapshot.nodes)
    for hold in snapshot.holds:
        pool.hold(hold)
    before = [replace(room) for room in pool.rooms.values()], pool.free
    taken = []
    for request in snapshot.requests:
        placed = pool.place(request)
        if placed is not None:
            taken.append(pool.take(request, placed))
    for hold in taken:
        pool.hold(hold, sign=-1)
    assert ([replace(room) for room in pool.rooms.values()], pool.free) == before


def test_an_older_row_holds_whole_slots() -> None:
    old = RankPlacement.model_validate({"rank": 0, "node_id": "n", "slots": 2, "local_rank": 0})
    assert (old.share, old.shared_slot) == (WHOLE, None)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_hold_of_nothing_changes_nothing(sign: int) -> None:
    pool = Pool(machines(2))
    pool.hold(Hold("job/x", "a", {"n0": 0}), sign)
    assert pool.free == 2
