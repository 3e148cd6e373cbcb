"""Replicas of one service go to the machines, and clusters, that have fewest of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quarterdeck.scheduling.placement import Pool
from quarterdeck.scheduling.plan import plan
from quarterdeck.scheduling.snapshot import Hold, NodeView, Plan, Request, Snapshot

NOW = datetime(2026, 1, 1, 13, 0, tzinfo=UTC)


def nodes(count: int, slots: int = 8, cluster: str = "a") -> tuple[NodeView, ...]:
    return tuple(NodeView(f"{cluster}{i}", cluster, slots, host=f"{i}") for i in range(count))


def replicas(count: int, **fields: Any) -> tuple[Request, ...]:
    usual = {"service": "chat"} | fields
    first = usual.pop("ordinal", 0)
    return tuple(Request(f"chat#{i}", "service/chat", 0, first + i, **usual) for i in range(count))


def look(machines: tuple[NodeView, ...], requests: tuple[Request, ...], *holds: Hold) -> Plan:
    return plan(Snapshot({one.cluster: True for one in machines}, machines, holds, requests), NOW)


def places(made: Plan) -> Counter[str]:
    return Counter(place.node_id for one in made.assignments for place in one.placements)


def test_of_a_service_no_machine_has_two_more_than_another() -> None:
    assert places(look(nodes(3), replicas(7))) == {"a0": 3, "a1": 2, "a2": 2}


def test_those_that_run_count() -> None:
    there = Hold("service/chat", "a", {"a0": 1}, service="chat")
    assert places(look(nodes(2), replicas(1), there)) == {"a1": 1}


def test_of_equal_machines_the_fullest_is_taken() -> None:
    others = Hold("service/other", "a", {"a1": 5}, service="other")
    assert places(look(nodes(3), replicas(1), others)) == {"a1": 1}
    assert places(look(nodes(3), replicas(2), others)) == {"a0": 1, "a1": 1}


def test_none_waits_for_a_machine_of_its_own() -> None:
    full = Hold("job/x", "a", {"a1": 8})
    made = look(nodes(2), replicas(3), full)
    assert (places(made), made.pending) == ({"a0": 3}, ())


def test_clusters_come_before_machines() -> None:
    machines = (*nodes(2), *nodes(1, cluster="b"))
    assert places(look(machines, replicas(2))) == {"a0": 1, "b0": 1}
    assert places(look(machines, replicas(4))) == {"a0": 2, "a1": 1, "b0": 1}


def test_a_small_cluster_or_pool_gets_no_more_than_its_machines_share() -> None:
    clusters = (*nodes(4), *nodes(1, cluster="b"))
    assert places(look(clusters, replicas(5))) == {"a0": 1, "a1": 1, "a2": 1, "a3": 1, "b0": 1}
    models = (replace(nodes(1)[0], accelerator="A100"), *nodes(4)[1:])
    assert places(look(models, replicas(8))) == {"a0": 2, "a1": 2, "a2": 2, "a3": 2}


def test_a_machine_whose_place_is_not_known_gets_no_more_than_others() -> None:
    known = [replace(one, topology=f"z/r{i % 3}") for i, one in enumerate(nodes(11)[1:])]
    made = look((nodes(11)[0], *known), replicas(10))
    assert set(places(made).values()) == {1}


def test_a_wish_that_would_delay_who_waits_is_not_heeded() -> None:
    """The pair waits for two whole machines: a2 must stay free for it, so a0 gets both replicas."""
    there = Hold("service/chat", "a", {"a0": 1}, service="chat")
    busy = Hold("job/x", "a", {"a1": 8}, ends_at=NOW + timedelta(hours=1))
    pair = Request("pair", "job/pair", 0, 0, data=2, tensor=8)
    replica = replicas(1, ordinal=1)[0]
    made = look(nodes(3), (pair, replica), there, busy)
    assert [(one.request_id, places(made)) for one in made.assignments] == [("chat#0", {"a0": 1})]


def test_a_replica_over_several_machines_keeps_off_all_of_its_like() -> None:
    there = Hold("service/chat", "a", {"a0": 8, "a1": 8}, service="chat")
    made = look(nodes(4, slots=32), replicas(1, tensor=16), there)
    assert places(made) == {"a2": 16}


def test_jobs_and_parts_of_a_slot_are_packed() -> None:
    assert places(look(nodes(2), replicas(2, service=""))) == {"a0": 2}
    assert places(look(nodes(2), replicas(2, share=400))) == {"a0": 2}


@settings(max_examples=150, deadline=None)
@given(
    slots=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    ranks=st.integers(1, 3),
    wanted=st.integers(1, 8),
    taken=st.lists(st.integers(0, 6), min_size=5, max_size=5),
)
def test_a_wish_keeps_no_replica_from_starting(
    slots: list[int], ranks: int, wanted: int, taken: list[int]
) -> None:
    """As many start as if they were packed, wherever one needs one machine."""
    machines = tuple(NodeView(f"a{i}", "a", n, host=f"{i}") for i, n in enumerate(slots))
    holds = [
        Hold("service/chat", "a", {node.id: count}, service="chat")
        for node, count in zip(machines, taken, strict=False)
        if 0 < count <= node.slots
    ]
    asked = replicas(wanted, tensor=ranks)
    spread = look(machines, asked, *holds)
    packed = look(machines, tuple(replace(one, service="") for one in asked), *holds)
    assert len(spread.assignments) == len(packed.assignments)


@pytest.mark.parametrize("share", [1000, 400])
def test_what_a_round_placed_says_whose_it_is(share: int) -> None:
    pool = Pool(nodes(1))
    request = replicas(1, share=share)[0]
    placed = pool.place(request)
    assert placed is not None
    assert pool.take(request, placed).service == "chat"
