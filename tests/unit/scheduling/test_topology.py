"""Gangs of several machines stay together in the network, replicas stay apart."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quarterdeck.scheduling.plan import plan
from quarterdeck.scheduling.snapshot import Hold, NodeView, Plan, Request, Snapshot
from quarterdeck.scheduling.topology import common, domains

NOW = datetime(2026, 1, 1, 13, 0, tzinfo=UTC)


def node(name: str, topology: str, slots: int = 8) -> NodeView:
    return NodeView(name, "a", slots, host=name, topology=topology)


TWO_ZONES = tuple(
    node(f"{zone}{rack}{number}", f"{zone}/r{rack}")
    for zone in "ab"
    for rack in (1, 2)
    for number in (1, 2)
)
"""a11 a12 a21 a22 b11 …: zone, rack, number."""


def gang(machines: int, **fields: Any) -> Request:
    return Request("job", "job/job", 0, 0, data=machines, tensor=8, **fields)


def look(request: Request, *holds: Hold, machines: Any = TWO_ZONES) -> Plan:
    return plan(Snapshot({"a": True}, tuple(machines), holds, (request,)), NOW)


def taken(made: Plan) -> set[str]:
    return {place.node_id for one in made.assignments for place in one.placements}


def full(*names: str) -> list[Hold]:
    return [Hold(f"job/{name}", "a", {name: 8}) for name in names]


@pytest.mark.parametrize(
    ("machines", "busy", "expected", "domain"),
    [
        (2, [], {"a11", "a12"}, "a/r1"),
        (2, ["a11"], {"a21", "a22"}, "a/r2"),
        (2, ["a11", "a21"], {"b11", "b12"}, "b/r1"),
        (3, ["b11"], {"b12", "b21", "b22"}, "b"),
        (2, ["a11", "a21", "b11", "b21"], {"a12", "a22"}, "a"),
        (5, [], {"a11", "a12", "a21", "a22", "b11"}, ""),
    ],
)
def test_a_gang_goes_into_the_narrowest_domain_that_has_room(
    machines: int, busy: list[str], expected: set[str], domain: str
) -> None:
    made = look(gang(machines), *full(*busy))
    (assignment,) = made.assignments
    assert (taken(made), assignment.domain) == (expected, domain)


def test_of_equal_domains_the_fullest_is_taken() -> None:
    machines = [*TWO_ZONES, node("b13", "b/r1"), node("a13", "a/r1")]
    assert taken(look(gang(2), machines=machines)) == {"a21", "a22"}


def test_a_narrow_domain_that_scatters_the_gang_is_not_taken() -> None:
    crumbs = [node(f"c{i:02}", "a/r1", 1) for i in range(16)]
    machines = [*crumbs, *(node(f"w{i}", "a/r2") for i in range(3))]
    request = Request("job", "job/job", 0, 0, data=16)
    assert taken(look(request, machines=machines)) == {"w0", "w1"}
    split = [*(node(f"s{i}", "a/r1", slots) for i, slots in enumerate((8, 4, 4))), *machines[-3:]]
    staged = Request("job", "job/job", 0, 0, data=4, tensor=2, pipeline=2)
    assert taken(look(staged, machines=split)) == {"w0", "w1"}


def test_what_fits_on_one_machine_says_nothing_of_the_network() -> None:
    (assignment,) = look(gang(1)).assignments
    assert assignment.domain == ""


def test_machines_without_a_place_take_part() -> None:
    machines = [node("x", ""), node("y", ""), node("z", "a")]
    (assignment,) = look(gang(2), machines=machines).assignments
    assert assignment.domain == ""
    assert len(taken(look(gang(3), machines=machines))) == 3


def test_replicas_are_spread_over_machines_then_zones_then_racks() -> None:
    requests = tuple(Request(f"s#{i}", "service/s", 0, i, tensor=8, service="s") for i in range(6))
    made = plan(Snapshot({"a": True}, TWO_ZONES, (), requests), NOW)
    order = [next(iter(one.placements)).node_id for one in made.assignments]
    assert Counter(name[0] for name in order[:2]) == {"a": 1, "b": 1}
    assert sorted(name[:2] for name in order[:4]) == ["a1", "a2", "b1", "b2"]
    assert len(set(order)) == 6


paths = st.sampled_from(["", "a", "a/r1", "a/r2", "b", "b/r1"])


@settings(max_examples=150, deadline=None)
@given(
    places=st.lists(st.tuples(paths, st.integers(1, 8)), min_size=1, max_size=8),
    ranks=st.integers(1, 12),
    tensor=st.sampled_from([1, 2, 4]),
)
def test_a_wish_keeps_no_gang_from_starting(
    places: list[tuple[str, int]], ranks: int, tensor: int
) -> None:
    machines = [node(f"n{i}", path, slots) for i, (path, slots) in enumerate(places)]
    request = Request("job", "job/job", 0, 0, data=ranks, tensor=tensor)
    with_places = look(request, machines=machines)
    without = look(request, machines=[replace(one, topology="") for one in machines])
    assert len(with_places.assignments) == len(without.assignments)
    for one in with_places.assignments:
        used = Counter(place.node_id for place in one.placements)
        assert used.total() == ranks * tensor
        assert all(count <= machines[int(name[1:])].slots for name, count in used.items())


def test_domains_and_what_several_have_in_common() -> None:
    assert (domains("a/r1/x"), domains("")) == (["a", "a/r1", "a/r1/x"], [])
    assert common(["a/r1", "a/r2"]) == "a"
    assert common(["a/r1", "a/r1"]) == "a/r1"
    assert common(["a/r1", "a"]) == "a"
    assert common(["a", ""]) == common(["a", "b"]) == common([]) == ""
