"""Spot and other machines of a pool: who gets which, and what if spot ones do not come."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from quarterdeck.cluster.sizing import Bounds, size
from quarterdeck.scheduling.plan import plan
from quarterdeck.scheduling.snapshot import (
    Demand,
    GroupView,
    Hold,
    NodeView,
    Plan,
    Request,
    Snapshot,
)

NOW = datetime(2026, 1, 1, 13, 0, tzinfo=UTC)
SHORT = "spot machines have not come for 5 min"


def group(name: str, **fields: Any) -> GroupView:
    usual = {"room": 2, "most": 2, "spot": name == "spot"}
    return GroupView("gpu", name, 8, "H100", **{**usual, **fields})


def node(name: str, spot: bool | None) -> NodeView:
    return NodeView(name, "gpu", 8, "H100", host=name, spot=spot)


def ask(name: str, machines: int = 1, spot: str = "allow", **fields: Any) -> Request:
    return Request(name, f"job/{name}", 0, fields.pop("ordinal", 0), data=8 * machines, spot=spot)


def look(*requests: Request, groups: Any = (), machines: Any = (), holds: Any = ()) -> Plan:
    clusters = {"gpu": True} if machines else {}
    snapshot = Snapshot(clusters, tuple(machines), tuple(holds), requests, tuple(groups))
    return plan(snapshot, NOW)


def new(made: Plan) -> dict[str, int]:
    return {name: demand.new for (_, name), demand in made.demands.items() if demand.new}


BOTH = [group("on-demand"), group("spot")]


@pytest.mark.parametrize(
    ("spot", "machines", "ordered"),
    [
        ("allow", 1, {"spot": 1}),
        ("allow", 2, {"spot": 2}),
        ("allow", 3, {"spot": 2, "on-demand": 1}),
        ("avoid", 2, {"on-demand": 2}),
        ("only", 2, {"spot": 2}),
        ("avoid", 3, {}),
        ("only", 3, {}),
    ],
)
def test_spot_machines_come_first_where_they_may(spot: str, machines: int, ordered: Any) -> None:
    assert new(look(ask("a", machines, spot), groups=BOTH)) == ordered


@pytest.mark.parametrize("spot", ["avoid", "only"])
def test_who_is_too_large_for_the_machines_it_takes_is_told(spot: str) -> None:
    (pending,) = look(ask("a", 3, spot), groups=BOTH).pending
    assert pending.reason == "ExceedsCluster"
    assert f"H100 that are {'not ' if spot == 'avoid' else ''}spot" in pending.message


@pytest.mark.parametrize("coming", [0, 1])
def test_others_come_in_the_place_of_those_that_do_not(coming: int) -> None:
    short = group("spot", short=SHORT, coming=coming, room=2 - coming)
    made = look(ask("a"), groups=[group("on-demand"), short])
    assert new(made) == {"on-demand": 1}
    assert made.demands["gpu", "on-demand"].instead == "spot"
    assert made.demands["gpu", "spot"] == Demand()  # nobody counts on them: they are given back
    (pending,) = made.pending
    assert pending.reason == "WaitingForMachines"
    assert "1 machine of group on-demand" in pending.message
    assert f"group spot: {SHORT}" in pending.facts


def test_a_short_group_is_waited_for_where_nothing_else_will_do() -> None:
    short = group("spot", short=SHORT, coming=1, room=1)
    for wish, groups in (("only", [group("on-demand"), short]), ("allow", [short])):
        made = look(ask("a", 1, wish), groups=groups)
        assert new(made) == {}
        assert made.demands["gpu", "spot"].coming == 1  # and no more are ordered than before
    wide = look(ask("a", 3), groups=[group("on-demand"), short])
    assert new(wide) == {"on-demand": 2}
    assert wide.demands["gpu", "spot"].coming == 1


def test_a_gang_keeps_to_machines_that_it_takes() -> None:
    machines = [node("n-spot", True), node("n-od", False), node("n-new", None)]
    for wish, allowed in (("avoid", {"n-od"}), ("only", {"n-spot"})):
        made = look(ask("a", 1, wish), ask("b", 1, wish, ordinal=1), machines=machines)
        assert [{p.node_id for p in one.placements} for one in made.assignments] == [allowed]
    made = look(ask("a", 3), machines=machines)
    assert len({p.node_id for p in made.assignments[0].placements}) == 3


@pytest.mark.parametrize(("wish", "spot"), [("avoid", True), ("only", False)])
def test_what_is_there_of_the_wrong_kind_is_the_reason(wish: str, spot: bool) -> None:
    made = look(ask("a", 1, wish), machines=[node("n", spot)])
    (pending,) = made.pending
    assert pending.reason == "SpotUnwanted"
    assert f"(resources.spot: {wish})" in pending.message
    grown = look(ask("a", 1, wish), machines=[node("n", spot)], groups=BOTH)
    assert grown.pending[0].reason == "WaitingForMachines"


def test_one_that_waits_for_its_kind_does_not_hold_up_the_other() -> None:
    """A service that waits for a machine to stay, and a job that goes where it never would."""
    busy = Hold("job/x", "gpu", {"n-od": 8})
    machines = [node("n-spot", True), node("n-od", False)]
    serves = ask("serves", 1, "avoid")
    made = look(serves, ask("trains", ordinal=1), machines=machines, holds=[busy])
    assert [one.request_id for one in made.assignments] == ["trains"]
    wide = look(serves, ask("wide", 2, ordinal=1), machines=machines)
    assert [one.request_id for one in wide.assignments] == ["serves"]
    half = Hold("job/x", "gpu", {"n-od": 4})  # what is left of it is not given away before it
    small = Request("small", "job/small", 0, 1, data=4, spot="avoid")
    held = look(serves, small, machines=machines, holds=[half])
    assert held.assignments == ()


def test_one_that_is_blocked_keeps_machines_of_its_kind_alone_from_coming() -> None:
    busy = Hold("job/x", "gpu", {"n-od": 8})
    groups = [group("on-demand", room=1), group("spot")]
    made = look(
        ask("wide", 2, "avoid"), ask("b", ordinal=1), groups=groups, machines=[node("n-od", False)],
        holds=[busy],
    )  # fmt: skip
    assert made.demands["gpu", "on-demand"].blocked == "job/wide"
    assert new(made) == {"spot": 1}
    assert made.demands["gpu", "spot"].whom == ("job/b",)


def test_the_decision_says_in_whose_place() -> None:
    demand = Demand(new=1, whom=("job/a",), instead="spot")
    made = size(Bounds(0, 2, 600.0), 0, (), demand, NOW)
    assert made.bound_by == (
        "1 machine for job/a, in place of group spot, whose machines do not come"
    )
