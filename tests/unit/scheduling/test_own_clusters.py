"""Clusters that are made for one run: nobody else goes there, and their machines are the pool's."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from quarterdeck.controller.requests import within_budgets
from quarterdeck.scheduling.growth import roomiest
from quarterdeck.scheduling.plan import plan
from quarterdeck.scheduling.snapshot import GroupView, NodeView, Plan, Request, Snapshot

NOW = datetime(2026, 1, 1, 13, 0, tzinfo=UTC)
OWN = "gpu-ab12"


def group(cluster: str = "gpu", **fields: Any) -> GroupView:
    usual = {"room": 3, "most": 3, "budget": "gpu", "image": "" if cluster == "gpu" else "a:1"}
    return GroupView(cluster, "h100", 8, "H100", **{**usual, **fields})


def ask(name: str, machines: int = 1, **fields: Any) -> Request:
    return Request(name, f"job/{name}", 0, fields.pop("ordinal", 0), data=8 * machines, **fields)


def look(*requests: Request, groups: Any, machines: Any = (), owned: Any = (OWN,)) -> Plan:
    clusters = {node.cluster: True for node in machines}
    snapshot = Snapshot(
        clusters,
        tuple(machines),
        (),
        requests,
        tuple(groups),
        exclusive=dict.fromkeys(owned, "own"),
    )
    return plan(snapshot, NOW)


def new(made: Plan) -> dict[str, int]:
    return {cluster: demand.new for (cluster, _), demand in made.demands.items() if demand.new}


def test_only_the_run_for_which_it_was_made_goes_there() -> None:
    machines = [NodeView("n1", OWN, 8, "H100")]
    made = look(
        ask("other"), ask("named", cluster=OWN), ask("own", ordinal=1, cluster=OWN),
        groups=[], machines=machines,
    )  # fmt: skip
    assert [(one.request_id, one.cluster) for one in made.assignments] == [("own", OWN)]
    reasons = {one.request_id: (one.reason, one.message) for one in made.pending}
    assert reasons["other"][0] == "NoCluster"
    assert "is another job's" in reasons["named"][1]


@pytest.mark.parametrize("before", ["gpu-aaaa", "gpu-zzzz"])
def test_the_cluster_of_an_earlier_attempt_that_still_ends_holds_up_no_one(before: str) -> None:
    for owned in ((OWN, before), (before, OWN)):
        groups = [group(OWN), group(before, barred=True)]
        made = look(ask("own", cluster=OWN), groups=groups, owned=owned)
        assert new(made) == {OWN: 1}


def test_a_pool_of_which_nothing_comes_is_waited_for_by_whom_no_other_takes() -> None:
    barred, other = group("a", barred=True, budget="a"), group("b", budget="b")
    assert new(look(ask("one"), groups=[barred, other])) == {"b": 1}
    assert new(look(ask("one", cluster="a"), groups=[barred, other])) == {"a": 1}
    assert new(look(ask("one"), groups=[barred])) == {"a": 1}


def test_all_of_a_budget_share_what_the_pool_may_have_in_the_queues_order() -> None:
    groups = [group(), group(OWN)]
    made = look(ask("a", 2), ask("own", 1, ordinal=1, cluster=OWN), groups=groups)
    assert new(made) == {"gpu": 2, OWN: 1}
    made = look(ask("a", 2), ask("own", 2, ordinal=1, cluster=OWN), groups=groups)
    assert new(made) == {"gpu": 2}
    made = look(ask("own", 2, cluster=OWN), ask("a", 2, ordinal=1), groups=groups)
    assert new(made) == {OWN: 2}


def test_a_run_that_waits_for_room_in_the_pool_is_not_overtaken() -> None:
    """One machine of three is left: the wide run waits for it and one more, the later ones too."""
    groups = within_budgets([group(ordered=2, room=1), group(OWN)])
    assert [view.room for view in groups] == [1, 1]
    made = look(
        ask("own", 2, cluster=OWN), ask("b", 1, ordinal=1), ask("c", 1, ordinal=2), groups=groups
    )
    assert new(made) == {}
    assert made.demands["gpu", "h100"].blocked == "job/own"


def test_an_image_that_cannot_be_pulled_is_the_reason() -> None:
    broken = group(OWN, coming=1, trouble="ImagePullBackOff: Back-off pulling image a:1")
    made = look(ask("own", cluster=OWN), groups=[broken])
    (pending,) = made.pending
    assert pending.reason == "ImageNotPulled"
    assert "image a:1 cannot be pulled" in pending.message
    assert pending.facts == (f"group h100: {broken.trouble}",)
    plain = group(coming=1, trouble=broken.trouble)
    assert look(ask("a"), groups=[plain]).pending[0].reason == "WaitingForMachines"


def test_the_first_pool_that_has_room_at_its_largest() -> None:
    small, large = group("a", most=1), group("b", most=4)
    assert roomiest([large, small], ask("x", 1)) == "a"
    assert roomiest([large, small], ask("x", 2)) == "b"
    assert roomiest([large, small], ask("x", 2, cluster="a")) == ""
    assert roomiest([large, small], ask("x", 1, closed={"a": "is shared"})) == "b"
