"""Order, gangs, placement and explanation, by golden example and by property."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quarterdeck.scheduling.plan import plan
from quarterdeck.scheduling.snapshot import Hold, NodeView, Plan, Request, Snapshot

NOW = datetime(2026, 1, 1, 13, 0, tzinfo=UTC)


def nodes(count: int, slots: int = 8, cluster: str = "a", accelerator: str = "H100") -> Any:
    return tuple(
        NodeView(f"{cluster}{i}", cluster, slots, accelerator, host=f"host-{i:02}", cpus=slots * 4,
                 memory=slots << 30)
        for i in range(count)
    )  # fmt: skip


def ask(name: str, ordinal: int = 0, **fields: Any) -> Request:
    return Request(name, f"job/{name}", fields.pop("priority", 0), ordinal, **fields)


def world(machines: Any, *requests: Request, holds: Any = (), **clusters: bool) -> Snapshot:
    known = {node.cluster: True for node in machines} | clusters
    return Snapshot(known, tuple(machines), tuple(holds), requests)


def started(made: Plan) -> list[str]:
    return [assignment.request_id for assignment in made.assignments]


def reason(made: Plan, request_id: str) -> Any:
    return next(item for item in made.pending if item.request_id == request_id)


def test_four_stages_of_two_by_four_on_four_hosts() -> None:
    """rank = (pp·D + dp)·T + tp: host i holds stage i, each tensor group is inside a host."""
    made = plan(world(nodes(4), ask("big", pipeline=4, data=2, tensor=4)), NOW)
    placements = made.assignments[0].placements
    assert [p.rank for p in placements] == list(range(32))
    for p in placements:
        stage, local = divmod(p.rank, 8)
        assert (p.node_id, p.local_rank) == (f"a{stage}", local)


def test_small_gangs_fill_gaps_and_leave_empty_hosts_whole() -> None:
    holds = [Hold("job/x", "a", {"a0": 5}), Hold("job/y", "a", {"a1": 2})]
    made = plan(world(nodes(3), ask("small", data=3), holds=holds), NOW)
    assert {p.node_id for p in made.assignments[0].placements} == {"a0"}


def test_a_tensor_group_is_never_torn() -> None:
    holds = [Hold(f"job/{i}", "a", {f"a{i}": 6}) for i in range(4)]
    made = plan(world(nodes(4), ask("torn", tensor=4, data=2), holds=holds), NOW)
    assert started(made) == []
    assert "not 4 together" in reason(made, "torn").message
    made = plan(world(nodes(4), ask("pairs", tensor=2, data=4), holds=holds), NOW)
    assert Counter(p.node_id for p in made.assignments[0].placements) == {
        f"a{i}": 2 for i in range(4)
    }


def test_a_gang_never_spans_clusters_or_mixes_accelerators() -> None:
    machines = nodes(1) + nodes(1, cluster="b") + nodes(1, cluster="c", accelerator="A100")
    made = plan(world(machines, ask("wide", data=16)), NOW)
    assert reason(made, "wide").reason == "ExceedsCluster"
    mixed = (*nodes(1), NodeView("z", "a", 8, "A100"))
    made = plan(world(mixed, ask("wide", data=16)), NOW)
    assert reason(made, "wide").reason == "ExceedsCluster"


def test_what_is_missing_and_until_when() -> None:
    holds = [Hold("job/e3", "a", {"a0": 2}, ends_at=NOW + timedelta(minutes=70))]
    made = plan(world(nodes(1), ask("next", data=8), holds=holds), NOW)
    pending = reason(made, "next")
    assert pending.reason == "InsufficientSlots"
    assert pending.message == "needs 8 H100, 6 free in cluster a; job/e3 ends by 14:10"
    assert pending.starts_at == NOW + timedelta(minutes=70)


@pytest.mark.parametrize(
    ("machines", "fields", "clusters", "expected", "words"),
    [
        ((), {}, {}, "NoCluster", "no cluster has joined"),
        (nodes(1), {"cluster": "z"}, {}, "NoCluster", "'z' does not exist; known: a"),
        (nodes(1), {}, {"a": False}, "ClusterSilent", "silent"),
        (nodes(1), {"accelerator": "B200"}, {}, "NoSuchAccelerator", "there are: H100"),
        (nodes(2), {"tensor": 16}, {}, "TensorGroupDoesNotFit", "the largest has 8"),
        (nodes(2), {"data": 17}, {}, "ExceedsCluster", "needs 17 H100, cluster a has 16"),
        (nodes(1), {"cpus": 33.0}, {}, "ExceedsCluster", "33 cpus"),
    ],
)
def test_reasons(machines: Any, fields: Any, clusters: Any, expected: str, words: str) -> None:
    pending = reason(plan(world(machines, ask("j", **fields), **clusters), NOW), "j")
    assert pending.reason == expected
    assert words in pending.message


@pytest.mark.parametrize("state", [{"cordoned": True}, {"quarantined": True}, {"phase": "unknown"}])
def test_machines_that_take_no_work(state: dict[str, Any]) -> None:
    machines = nodes(2)
    away = (replace(machines[0], **state), machines[1])
    made = plan(world(away, ask("one", data=8), ask("two", 1, data=16)), NOW)
    assert {p.node_id for p in made.assignments[0].placements} == {"a1"}
    assert reason(made, "two").reason == "NodesCordoned"
    assert "host-00" in reason(made, "two").message


def test_an_unproven_attempt_is_avoided() -> None:
    made = plan(world(nodes(2), ask("j", avoid=frozenset({"a0"}))), NOW)
    assert made.assignments[0].placements[0].node_id == "a1"


def test_priority_then_submission() -> None:
    made = plan(
        world(nodes(1), ask("late", 2, data=4), ask("early", 1, data=4),
              ask("urgent", 3, data=4, priority=100)),
        NOW,
    )  # fmt: skip
    assert started(made) == ["urgent", "early"]


def test_small_work_does_not_starve_big_work() -> None:
    holds = [Hold("job/x", "a", {"a0": 2})]
    made = plan(world(nodes(1), ask("big", 1, data=8), ask("small", 2), holds=holds), NOW)
    assert started(made) == []
    pending = reason(made, "small")
    assert pending.reason == "Queued" and "job/big waits ahead" in pending.message


def test_backfill_only_where_it_is_provably_harmless() -> None:
    holds = [Hold("job/x", "a", {"a0": 2}, ends_at=NOW + timedelta(hours=1))]
    big = ask("big", 1, data=8)

    def small(hours: float | None) -> list[str]:
        limit = None if hours is None else hours * 3600
        return started(plan(world(nodes(1), big, ask("small", 2, max_duration=limit),
                                  holds=holds), NOW))  # fmt: skip

    assert small(1) == ["small"]
    assert small(1.5) == []
    assert small(None) == []


def test_other_pools_are_not_held_up() -> None:
    machines = nodes(1) + nodes(1, cluster="b", accelerator="A100")
    holds = [Hold("job/x", "a", {"a0": 2})]
    made = plan(
        world(machines, ask("big", 1, data=8, accelerator="H100"),
              ask("other", 2, accelerator="a100"), holds=holds),
        NOW,
    )  # fmt: skip
    assert started(made) == ["other"]


def test_what_can_never_run_holds_up_nobody() -> None:
    made = plan(world(nodes(1), ask("huge", 1, data=99), ask("ok", 2)), NOW)
    assert started(made) == ["ok"]


# --- properties ------------------------------------------------------------------------------

DEGREES = st.sampled_from([1, 1, 2, 4])


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    machines = [
        NodeView(
            f"n{i}", draw(st.sampled_from("ab")), draw(st.integers(1, 8)),
            draw(st.sampled_from(["H100", "cpu"])),
            phase=draw(st.sampled_from(["alive", "alive", "alive", "unknown"])),
            cordoned=draw(st.booleans()) and draw(st.booleans()),
            cpus=draw(st.integers(0, 16)), memory=draw(st.integers(0, 8)),
        )
        for i in range(draw(st.integers(0, 6)))
    ]  # fmt: skip
    holds = []
    for i, node in enumerate(machines):
        if taken := draw(st.integers(0, node.slots)):
            hours = draw(st.none() | st.integers(1, 5))
            ends_at = None if hours is None else NOW + timedelta(hours=hours)
            holds.append(Hold(f"job/h{i}", node.cluster, {node.id: taken}, ends_at=ends_at))
    requests = tuple(
        Request(
            f"r{i}", f"job/r{i}", draw(st.integers(-1, 1)), draw(st.integers(0, 3)),
            data=draw(DEGREES), tensor=draw(DEGREES), pipeline=draw(DEGREES),
            cluster=draw(st.sampled_from([None, None, "a", "b", "z"])),
            accelerator=draw(st.sampled_from([None, "h100", "cpu"])),
            cpus=draw(st.sampled_from([None, None, 1.0])),
            memory=draw(st.sampled_from([None, None, 1])),
            max_duration=draw(st.sampled_from([None, 1800.0, 7200.0])),
        )
        for i in range(draw(st.integers(0, 8)))
    )  # fmt: skip
    clusters = {"a": True, "b": draw(st.booleans())}
    return Snapshot(clusters, tuple(machines), tuple(holds), requests)


@given(snapshots())
@settings(max_examples=300, deadline=None)
def test_never_overcommitted_never_partial_always_answered(snapshot: Snapshot) -> None:
    made = plan(snapshot, NOW)
    machines = {node.id: node for node in snapshot.nodes}
    requests = {request.id: request for request in snapshot.requests}
    answered = started(made) + [item.request_id for item in made.pending]
    assert sorted(answered) == sorted(requests)
    used: Counter[str] = Counter()
    for hold in snapshot.holds:
        used.update(hold.slots)
    cpus: Counter[str] = Counter()
    for assignment in made.assignments:
        request = requests[assignment.request_id]
        chosen = [machines[p.node_id] for p in assignment.placements]
        assert [p.rank for p in assignment.placements] == list(range(request.ranks))
        assert {node.cluster for node in chosen} == {assignment.cluster}
        assert len({node.accelerator for node in chosen}) == 1
        assert snapshot.clusters[assignment.cluster] and all(node.usable for node in chosen)
        assert request.cluster in (None, assignment.cluster)
        for first in range(0, request.ranks, request.tensor):
            group = {p.node_id for p in assignment.placements[first : first + request.tensor]}
            assert len(group) == 1
        locals_by_node: dict[str, list[int]] = {}
        for p in assignment.placements:
            used[p.node_id] += p.slots
            cpus[p.node_id] += int(request.cpus or 0)
            locals_by_node.setdefault(p.node_id, []).append(p.local_rank)
        assert all(found == list(range(len(found))) for found in locals_by_node.values())
    assert all(count <= machines[node].slots for node, count in used.items())
    assert all(count <= machines[node].cpus for node, count in cpus.items() if count)
    assert all(item.reason and item.message for item in made.pending)


@given(snapshots(), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_a_plan_does_not_depend_on_the_order_of_its_input(snapshot: Snapshot, random: Any) -> None:
    shuffled = list(snapshot.requests)
    random.shuffle(shuffled)
    assert plan(snapshot, NOW) == plan(replace(snapshot, requests=tuple(shuffled)), NOW)


@given(snapshots())
@settings(max_examples=200, deadline=None)
def test_later_requests_never_change_what_starts_before_them(snapshot: Snapshot) -> None:
    """No priority inversion: the plan of the first k is a prefix of the plan of all."""
    order = sorted(snapshot.requests, key=lambda r: (-r.priority, r.ordinal, r.id))
    whole = started(plan(snapshot, NOW))
    for count in range(len(order)):
        part = started(plan(replace(snapshot, requests=tuple(order[:count])), NOW))
        assert part == [name for name in whole if name in {r.id for r in order[:count]}]


def test_a_restart_makes_do_with_the_first_smaller_gang_that_fits() -> None:
    smaller = ((1, 4, 2), (2, 4, 1), (1, 4, 1), (1, 2, 1))
    request = ask("elastic", data=2, tensor=4, pipeline=2, smaller=smaller)
    holds = [Hold("job/x", "a", {"a0": 4, "a1": 6})]
    made = plan(world(nodes(2), request, holds=holds), NOW)
    (chosen,) = made.assignments
    assert chosen.smaller == 2 and len(chosen.placements) == 4
    assert {place.node_id for place in chosen.placements} == {"a0"}
    assert "needs 16 H100, 6 free" in chosen.why
    (full,) = plan(world(nodes(2), request), NOW).assignments
    assert (full.smaller, full.why, len(full.placements)) == (None, "", 16)
    nothing = plan(world(nodes(2), request, holds=[Hold("job/x", "a", {"a0": 7, "a1": 7})]), NOW)
    assert [item.request_id for item in nothing.pending] == ["elastic"]
