"""Which machines a pool is to bring for waiting gangs, and what the gangs are told."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.scheduling.plan import plan
from quarterdeck.scheduling.snapshot import (
    Demand,
    GroupView,
    Hold,
    NodeView,
    Part,
    Plan,
    Request,
    Snapshot,
)

NOW = datetime(2026, 1, 1, 13, 0, tzinfo=UTC)


def group(**fields: Any) -> GroupView:
    most = fields.setdefault("most", 4)
    return GroupView(
        "gpu", fields.pop("name", "h100"), slots=8, accelerator="H100",
        room=fields.pop("room", most), **fields,
    )  # fmt: skip


def nodes(count: int) -> tuple[NodeView, ...]:
    return tuple(NodeView(f"n{i}", "gpu", 8, "H100", host=f"host-{i}") for i in range(count))


def ask(name: str, ordinal: int = 0, **fields: Any) -> Request:
    return Request(name, f"job/{name}", 0, ordinal, **fields)


def look(
    *requests: Request, groups: Any = (), machines: Any = (), holds: Any = (), connected: Any = True
) -> Plan:
    clusters = {} if connected is None else {"gpu": connected}
    return plan(Snapshot(clusters, tuple(machines), tuple(holds), requests, tuple(groups)), NOW)


def pending(made: Plan, name: str) -> Any:
    return next(one for one in made.pending if one.request_id == name)


def demand(made: Plan, name: str = "h100") -> Any:
    return made.demands.get(("gpu", name), Demand())


def test_as_few_machines_as_are_enough_even_before_the_cluster_is_there() -> None:
    made = look(ask("a", data=17), groups=[group()], connected=None)
    assert (demand(made).new, demand(made).whom) == (3, ("job/a",))
    assert pending(made, "a").reason == "WaitingForMachines"
    assert "needs 17 H100" in pending(made, "a").message
    assert "3 machines of group h100" in pending(made, "a").message


def test_what_is_coming_is_counted_on_first() -> None:
    made = look(ask("a", data=16), ask("b", 1, data=8), groups=[group(coming=2, room=2)])
    assert (demand(made).new, demand(made).coming) == (1, 2)


def test_gangs_fill_what_was_ordered_for_those_before_them() -> None:
    made = look(ask("a", data=4), ask("b", 1, data=4), groups=[group()])
    assert (demand(made).new, demand(made).whom) == (1, ("job/a", "job/b"))


def test_free_machines_that_are_there_are_used_and_kept() -> None:
    holds = [Hold("job/x", "gpu", {"n0": 8})]
    made = look(ask("a", data=16), groups=[group(room=2)], machines=nodes(2), holds=holds)
    assert (demand(made).new, made.reserved) == (1, {"n1"})


def test_a_gang_that_never_fits_brings_nothing_and_blocks_nobody() -> None:
    made = look(ask("wide", data=33), ask("b", 1, data=8), groups=[group()])
    assert pending(made, "wide").reason == "ExceedsCluster"
    assert "32 at its largest, 4 of group h100: raise max_replicas" in pending(made, "wide").message
    assert (demand(made).new, demand(made).whom) == (1, ("job/b",))


def test_a_tensor_group_wider_than_a_machine_never_fits() -> None:
    made = look(ask("torn", tensor=16), groups=[group()])
    assert pending(made, "torn").reason == "ExceedsCluster"
    assert "larger machines" in pending(made, "torn").message


def test_whom_what_runs_keeps_out_is_blocked_and_so_are_those_behind() -> None:
    holds = [Hold("job/x", "gpu", {"n0": 8})]
    made = look(
        ask("wide", data=32), ask("b", 1, data=8),
        groups=[group(room=3)], machines=nodes(1), holds=holds,
    )  # fmt: skip
    assert demand(made).blocked == "job/wide"
    assert demand(made).new == 0
    assert pending(made, "wide").reason == "InsufficientSlots"
    assert "at most 4 of group h100 (max_replicas)" in pending(made, "wide").message
    assert "ahead of it: job/wide" in pending(made, "b").facts


def test_later_gangs_do_not_take_the_machines_of_one_that_waits_for_more() -> None:
    made = look(ask("a", data=16), ask("b", 1, data=8), groups=[group(room=3)], machines=nodes(1))
    assert made.assignments == ()
    assert demand(made).new == 2


def test_where_machines_do_not_come_nobody_waits_for_them_in_line() -> None:
    stuck = group(coming=1, room=2, trouble="Unschedulable: 0/4 nodes are available")
    made = look(ask("a", data=16), ask("b", 1, data=8), groups=[stuck], machines=nodes(1))
    assert [one.request_id for one in made.assignments] == ["b"]
    assert pending(made, "a").reason == "WaitingForMachines"
    assert pending(made, "a").facts == ("group h100: Unschedulable: 0/4 nodes are available",)


def test_a_silent_cluster_gets_no_machines() -> None:
    made = look(ask("a", data=8), groups=[group()], connected=False)
    assert pending(made, "a").reason == "ClusterSilent"
    assert not made.demands


def test_several_groups_each_alone_first_and_together_when_they_must() -> None:
    small = GroupView("gpu", "small", slots=4, accelerator="H100", room=2, most=2)
    both = [small, group(most=2)]
    assert demand(look(ask("a", data=8), groups=both), "small").new == 2
    made = look(ask("a", tensor=8), groups=both)
    assert (demand(made, "small").new, demand(made).new) == (0, 1)
    made = look(ask("a", data=24), groups=both)
    assert (demand(made, "small").new, demand(made).new) == (2, 2)


@pytest.mark.parametrize(
    ("fields", "helped"),
    [({"accelerator": "h100"}, True), ({"accelerator": "A100"}, False), ({"cluster": "b"}, False)],
)
def test_only_machines_of_the_right_kind(fields: Any, helped: bool) -> None:
    made = look(ask("a", **fields), groups=[group()])
    assert (demand(made).new == 1) is helped
    assert (pending(made, "a").reason == "WaitingForMachines") is helped


def test_what_ranks_need_beside_their_slots_counts() -> None:
    made = look(ask("a", data=8, cpus=8.0), groups=[group(cpus=32.0)])
    assert demand(made).new == 2


def test_roles_on_different_accelerators_bring_machines_of_each() -> None:
    small = GroupView("gpu", "l4", slots=2, accelerator="L4", room=3, most=3)
    roles = (Part("trainer", 12, accelerator="H100"), Part("rollout", 3, accelerator="L4"))
    made = look(ask("rl", data=15, parts=roles), groups=[small, group()], machines=nodes(1))
    assert (demand(made).new, demand(made, "l4").new) == (1, 2)
    assert "needs 12 H100 and 3 L4" in pending(made, "rl").message
    assert made.reserved == {"n0"}
    wide = (Part("trainer", 12, accelerator="H100"), Part("rollout", 7, accelerator="L4"))
    made = look(ask("rl", data=19, parts=wide), groups=[small, group()])
    assert pending(made, "rl").reason == "ExceedsCluster"
    assert demand(made).new == 0  # no half of a gang


@given(
    here=st.integers(0, 3),
    coming=st.integers(0, 3),
    room=st.integers(0, 4),
    sizes=st.lists(st.integers(1, 40), max_size=6),
)
def test_with_the_machines_that_it_asks_for_every_gang_it_names_starts(
    here: int, coming: int, room: int, sizes: list[int]
) -> None:
    most = here + coming + room
    asked = [ask(f"j{i}", i, data=size) for i, size in enumerate(sizes)]
    made = look(*asked, groups=[group(coming=coming, room=room, most=most)], machines=nodes(here))
    needs = demand(made)
    assert needs.new <= room
    assert needs.coming <= coming
    later = look(*asked, machines=nodes(here + coming + needs.new))
    waits = {one.request_id for one in later.pending}
    assert not waits & {label.removeprefix("job/") for label in needs.whom}
    fewer = here + coming + needs.new - 1
    if needs.new:
        less = {one.request_id for one in look(*asked, machines=nodes(fewer)).pending}
        assert less & {label.removeprefix("job/") for label in needs.whom}
