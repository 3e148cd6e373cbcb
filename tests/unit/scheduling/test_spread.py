"""Gangs whose roles have different accelerators, by example and by property."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quarterdeck.scheduling.placement import by_node
from quarterdeck.scheduling.plan import plan
from quarterdeck.scheduling.snapshot import Hold, NodeView, Part, Pending, Plan, Request, Snapshot

NOW = datetime(2026, 1, 1, 13, 0, tzinfo=UTC)
GIB = 2**30


def node(name: str, slots: int, accelerator: str, cluster: str = "a", **fields: Any) -> NodeView:
    return NodeView(
        name, cluster, slots, accelerator, host=name, cpus=64, memory=64 * GIB, **fields
    )


FLEET = (
    node("h1", 2, "H100"), node("h2", 2, "H100"),
    node("l1", 4, "L4"), node("l2", 4, "L4"),
    node("c1", 2, "cpu"),
)  # fmt: skip


def part(role: str, ranks: int, accelerator: str, **fields: Any) -> Part:
    return Part(role, ranks, accelerator=accelerator, **fields)


def gang(name: str, *parts: Part, ordinal: int = 0, **fields: Any) -> Request:
    total = sum(each.ranks for each in parts)
    return Request(name, f"job/{name}", 0, ordinal, data=total, parts=parts, **fields)


def plain(name: str, ranks: int, accelerator: str | None, ordinal: int, **fields: Any) -> Request:
    return Request(name, f"job/{name}", 0, ordinal, data=ranks, accelerator=accelerator, **fields)


def world(*requests: Request, holds: Any = (), machines: Any = FLEET, **clusters: bool) -> Snapshot:
    known = {one.cluster: True for one in machines} | clusters
    return Snapshot(known, tuple(machines), tuple(holds), requests)


def started(made: Plan) -> list[str]:
    return [one.request_id for one in made.assignments]


def why(made: Plan, name: str) -> Pending:
    return next(one for one in made.pending if one.request_id == name)


RL = gang("rl", part("trainer", 3, "h100"), part("rollout", 5, "L4"), part("driver", 1, "cpu"))


def test_each_role_is_placed_on_its_accelerator_and_ranks_follow_the_roles() -> None:
    (chosen,) = plan(world(RL), NOW).assignments
    assert chosen.cluster == "a"
    told = [(one.rank, one.role, one.accelerator) for one in chosen.placements]
    assert told == [
        *((rank, "trainer", "H100") for rank in range(3)),
        *((rank, "rollout", "L4") for rank in range(3, 8)),
        (8, "driver", "cpu"),
    ]  # fmt: skip
    seats = {(one.node_id, one.local_rank) for one in chosen.placements}
    assert seats == {
        ("h1", 0), ("h1", 1), ("h2", 0), ("l1", 0), ("l1", 1), ("l1", 2), ("l1", 3), ("l2", 0),
        ("c1", 0),
    }  # fmt: skip


def test_for_launchers_the_places_keep_their_accelerators() -> None:
    (chosen,) = plan(world(RL), NOW).assignments
    merged = by_node(chosen.placements)
    told = [(one.rank, one.role, one.node_id, one.slots, one.accelerator) for one in merged]
    assert told == [
        (0, "trainer", "h1", 2, "H100"), (1, "trainer", "h2", 1, "H100"),
        (2, "rollout", "l1", 4, "L4"), (3, "rollout", "l2", 1, "L4"), (4, "driver", "c1", 1, "cpu"),
    ]  # fmt: skip


def test_roles_of_one_accelerator_share_a_pool_however_it_is_written() -> None:
    request = gang("j", part("a", 1, "L4"), part("b", 2, "H100"), part("c", 2, "l4"))
    (chosen,) = plan(world(request), NOW).assignments
    assert [one.accelerator for one in chosen.placements] == ["L4", "H100", "H100", "L4", "L4"]
    alone = gang("j", part("a", 1, "L4"), part("c", 2, "l4"))
    (chosen,) = plan(world(alone), NOW).assignments
    assert {one.accelerator for one in chosen.placements} == {"L4"}


def test_nothing_starts_where_one_role_does_not_fit() -> None:
    made = plan(world(RL, holds=[Hold("job/x", "a", {"l1": 4})]), NOW)
    assert started(made) == []
    pending = why(made, "rl")
    assert pending.reason == "InsufficientSlots"
    assert pending.message == (
        "needs 3 H100 for trainer (4 free), 5 L4 for rollout (4 free), 1 cpu slots for driver "
        "(2 free) in cluster a"
    )
    assert "no known end: job/x (no max_duration)" in pending.facts


def test_all_roles_are_in_one_cluster() -> None:
    machines = (node("h", 8, "H100"), node("l", 8, "L4", "b"), node("c", 8, "cpu", "b"))
    made = plan(world(RL, machines=machines), NOW)
    assert why(made, "rl").reason == "NoSuchAccelerator"
    assert why(made, "rl").message == (
        "a gang stays in one cluster, and none has all accelerators of its roles: a has h100 "
        "(trainer); b has L4 (rollout) and cpu (driver)"
    )
    there = [replace(one, id=f"b-{one.id}", cluster="b") for one in FLEET]
    (chosen,) = plan(world(RL, machines=(node("h", 8, "H100"), *there)), NOW).assignments
    assert chosen.cluster == "b"


@pytest.mark.parametrize(
    ("parts", "machines", "clusters", "expected", "words"),
    [
        ((part("a", 1, "B200"), part("b", 1, "L4")), FLEET, {}, "NoSuchAccelerator",
         "no machine has accelerator B200 (a); there are: H100, L4, cpu"),
        ((part("a", 5, "H100"), part("b", 9, "L4"), part("c", 1, "cpu")), FLEET, {},
         "ExceedsCluster",
         "needs 5 H100 for a (4 in all), 9 L4 for b (8 in all) in cluster a"),
        ((part("a", 1, "H100"), part("b", 2, "L4", memory=65 * GIB)), FLEET, {}, "ExceedsCluster",
         f"but not with {65 * GIB} bytes of memory for each rank of b"),
        ((part("a", 1, "H100"), part("b", 8, "L4")),
         (FLEET[0], FLEET[2], replace(FLEET[3], cordoned=True)), {}, "NodesCordoned",
         "takes no work on: l2 cordoned"),
        ((part("a", 1, "H100"), part("b", 8, "L4")), FLEET, {"a": False}, "ClusterSilent",
         "the agent of cluster a is silent"),
    ],
)  # fmt: skip
def test_reasons_name_the_roles(
    parts: Any, machines: Any, clusters: Any, expected: str, words: str
) -> None:
    pending = why(plan(world(gang("j", *parts), machines=machines, **clusters), NOW), "j")
    assert (pending.reason, words in pending.message) == (expected, True), pending.message


def test_what_roles_lack_beside_their_slots_is_said() -> None:
    request = gang("j", part("a", 1, "H100"), part("b", 2, "L4", cpus=40.0, memory=GIB))
    held = Hold("job/x", "a", {"l1": 1}, cpus={"l1": 32.0})
    made = plan(world(request, holds=[held]), NOW)
    assert why(made, "j").message == (
        "needs 1 H100 for a (4 free), 2 L4 for b (7 free) in cluster a, but not with 40 cpus and "
        f"{GIB} bytes of memory for each rank of b"
    )


def test_nodes_that_failed_it_are_avoided_by_every_role() -> None:
    request = gang("j", part("a", 3, "H100"), part("b", 1, "L4"), excluded={"h1": "Xid 79"})
    pending = why(plan(world(request), NOW), "j")
    assert pending.reason == "NodesExcluded" and "h1 excluded: Xid 79" in pending.message
    shunning = gang("j", part("a", 2, "H100"), part("b", 1, "L4"), shunned={"h1": "slow"})
    (chosen,) = plan(world(shunning), NOW).assignments
    assert {one.node_id for one in chosen.placements[:2]} == {"h2"}


# --- order -----------------------------------------------------------------------------------


def ends(hours: float) -> datetime:
    return NOW + timedelta(hours=hours)


def test_it_starts_when_the_last_of_its_pools_has_room() -> None:
    holds = [
        Hold("job/h", "a", {"h1": 2}, ends_at=ends(1)),
        Hold("job/l", "a", {"l1": 4}, ends_at=ends(3)),
    ]
    pending = why(plan(world(RL, holds=holds), NOW), "rl")
    assert pending.starts_at == ends(3)
    assert "job/h ends by 14:00, job/l ends by 16:00" in pending.message


def test_those_behind_it_keep_free_what_it_needs_of_each_pool_and_no_more() -> None:
    """Of 4 H100 it needs 3; without known ends one more rank there delays nothing, two would."""
    holds = [Hold("job/l", "a", {"l1": 4})]
    assert started(plan(world(RL, plain("one", 1, "H100", 1), holds=holds), NOW)) == ["one"]
    made = plan(world(RL, plain("two", 2, "H100", 1), holds=holds), NOW)
    assert started(made) == []
    assert "job/rl waits ahead of it" in why(made, "two").message
    l4 = plan(world(RL, plain("l", 1, "L4", 1), holds=holds), NOW)
    assert started(l4) == [], "there it waits for slots: nothing is provably harmless"
    assert started(plan(world(RL, plain("l", 1, "L4", 1, max_duration=60), holds=holds), NOW)) == []


def test_backfill_under_a_forecast_that_spans_pools() -> None:
    """`rl` starts at 16:00, when L4s are free: until then two of the H100s may be used."""
    holds = [Hold("job/l", "a", {"l1": 4}, ends_at=ends(3))]

    def small(hours: float) -> list[str]:
        request = plain("two", 2, "H100", 1, max_duration=hours * 3600)
        return started(plan(world(RL, request, holds=holds), NOW))

    assert small(3) == ["two"]
    assert small(3.5) == []


def test_what_ends_before_the_gang_ahead_starts_is_no_reason_to_overtake_it() -> None:
    """H100s are free by 14:00, but the gang ahead starts at 16:00 with what waits for L4s."""
    holds = [
        Hold("job/h", "a", {"h1": 2}, ends_at=ends(1)),
        Hold("job/l", "a", {"l1": 4, "l2": 4}, ends_at=ends(3)),
    ]
    ahead = gang("ahead", part("a", 1, "H100"), part("b", 2, "L4"), ordinal=1)
    made = plan(world(plain("l", 6, "L4", 0), ahead, plain("h", 3, "H100", 2), holds=holds), NOW)
    assert [one.starts_at for one in made.pending] == [ends(3)] * 3


def test_a_backfilled_gang_holds_all_of_its_pools() -> None:
    """It ends before the one ahead starts; what comes after it finds its L4s taken."""
    holds = [Hold("job/h", "a", {"h1": 2}, ends_at=ends(2))]
    short = gang("short", part("a", 1, "H100"), part("b", 8, "L4"), ordinal=1, max_duration=3600.0)
    late = plain("late", 1, "L4", 2)
    made = plan(world(plain("big", 4, "H100", 0), short, late, holds=holds), NOW)
    assert started(made) == ["short"]
    assert why(made, "late").starts_at == ends(1)


def test_a_gang_that_waits_ahead_elsewhere_counts() -> None:
    """`first` waits for L4s only; a later mixed gang would take the H100s and cannot have L4s;
    what is behind in the pool of L4s waits for both, but H100s are free beside the mixed one."""
    holds = [Hold("job/l", "a", {"l1": 3, "l2": 1})]
    first = plain("first", 6, "L4", 0)
    mixed = gang("mixed", part("a", 2, "H100"), part("b", 1, "L4"), ordinal=1)
    made = plan(world(first, mixed, plain("h", 2, "H100", 2), holds=holds), NOW)
    assert started(made) == ["h"]
    assert "job/first waits ahead of it" in why(made, "mixed").message


def test_others_pools_are_not_held_up() -> None:
    holds = [Hold("job/l", "a", {"l1": 4, "l2": 4})]
    mixed = gang("mixed", part("a", 4, "H100"), part("b", 1, "L4"))
    made = plan(world(mixed, plain("c", 2, "cpu", 1), plain("h", 1, "H100", 2), holds=holds), NOW)
    assert started(made) == ["c"]


# --- properties ------------------------------------------------------------------------------

MODELS = ("H100", "L4", "cpu")


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    machines = [
        node(
            f"n{i}", draw(st.integers(1, 6)), draw(st.sampled_from(MODELS)),
            draw(st.sampled_from("aab")), cordoned=draw(st.integers(0, 5)) == 0,
        )
        for i in range(draw(st.integers(1, 8)))
    ]  # fmt: skip
    holds = []
    for i, machine in enumerate(machines):
        if taken := draw(st.integers(0, machine.slots)):
            hours = draw(st.none() | st.integers(1, 5))
            ends_at = None if hours is None else ends(hours)
            holds.append(Hold(f"job/h{i}", machine.cluster, {machine.id: taken}, ends_at=ends_at))
    requests = []
    for i in range(draw(st.integers(1, 7))):
        names = draw(st.lists(st.sampled_from(MODELS), max_size=3))
        common: dict[str, Any] = {
            "ordinal": i, "max_duration": draw(st.sampled_from([None, 1800.0, 7200.0])),
        }  # fmt: skip
        if not names:
            model = draw(st.sampled_from([None, *MODELS]))
            requests.append(plain(f"r{i}", draw(st.integers(1, 6)), model, **common))
            continue
        parts = [
            part(f"p{j}", draw(st.integers(1, 4)), draw(st.sampled_from([name, name.lower()])),
                 cpus=draw(st.sampled_from([None, 20.0])))
            for j, name in enumerate(names)
        ]  # fmt: skip
        requests.append(gang(f"r{i}", *parts, **common))
    return Snapshot(
        {"a": True, "b": draw(st.booleans())}, tuple(machines), tuple(holds), tuple(requests)
    )


@given(snapshots())
@settings(max_examples=300, deadline=None)
def test_every_rank_is_on_its_model_no_slot_twice_all_or_nothing(snapshot: Snapshot) -> None:
    made = plan(snapshot, NOW)
    machines = {one.id: one for one in snapshot.nodes}
    requests = {one.id: one for one in snapshot.requests}
    assert sorted(started(made) + [one.request_id for one in made.pending]) == sorted(requests)
    used: Counter[str] = Counter()
    cpus: Counter[str] = Counter()
    for hold in snapshot.holds:
        used.update(hold.slots)
    for assignment in made.assignments:
        request = requests[assignment.request_id]
        asked = {each.role: each for each in request.parts}
        assert [one.rank for one in assignment.placements] == list(range(request.ranks))
        roles = [one.role for one in assignment.placements]
        if asked:
            assert roles == [each.role for each in request.parts for _ in range(each.ranks)]
        for place in assignment.placements:
            machine = machines[place.node_id]
            wanted = asked[place.role].accelerator if asked else request.accelerator
            assert wanted is None or wanted.lower() == machine.accelerator.lower()
            assert place.accelerator == machine.accelerator
            assert machine.cluster == assignment.cluster and machine.usable
            used[machine.id] += place.slots
            cpus[machine.id] += int((asked[place.role].cpus if asked else None) or 0)
        assert snapshot.clusters[assignment.cluster]
        seats = Counter((one.node_id, one.local_rank) for one in assignment.placements)
        assert set(seats.values()) <= {1}
    assert all(count <= machines[name].slots for name, count in used.items())
    assert all(count <= machines[name].cpus for name, count in cpus.items())
    assert all(one.reason and one.message for one in made.pending)


@given(snapshots())
@settings(max_examples=200, deadline=None)
def test_what_comes_later_changes_nothing_before_it(snapshot: Snapshot) -> None:
    whole = started(plan(snapshot, NOW))
    for count in range(len(snapshot.requests)):
        first = snapshot.requests[:count]
        sooner = started(plan(replace(snapshot, requests=first), NOW))
        assert sooner == [name for name in whole if name in {one.id for one in first}]


@given(snapshots())
@settings(max_examples=200, deadline=None)
def test_what_is_said_to_start_does_start_once_the_others_have_ended(snapshot: Snapshot) -> None:
    """The forecast of the first that waits holds: at that moment it is placed."""
    made = plan(snapshot, NOW)
    running = set(started(made))
    waiting = [one for one in made.pending if one.starts_at]
    if not waiting:
        return
    first = waiting[0]
    assert first.starts_at is not None
    held = list(snapshot.holds)
    for assignment in made.assignments:
        request = next(one for one in snapshot.requests if one.id == assignment.request_id)
        asked = {each.role: each.cpus or 0.0 for each in request.parts}
        slots = Counter(one.node_id for one in assignment.placements)
        cpus: Counter[str] = Counter()
        for one in assignment.placements:
            cpus[one.node_id] += int(asked.get(one.role, 0))
        ending = None
        if request.max_duration is not None:
            ending = NOW + timedelta(seconds=request.max_duration)
        held.append(Hold(request.label, assignment.cluster, slots, cpus=dict(cpus), ends_at=ending))
    later = [one for one in held if one.ends_at is None or one.ends_at > first.starts_at]
    left = [one for one in snapshot.requests if one.id not in running]
    then = plan(replace(snapshot, holds=tuple(later), requests=tuple(left)), first.starts_at)
    assert first.request_id in started(then)
