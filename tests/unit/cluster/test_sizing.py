"""How many machines a group gets and which go, by example and by property."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.cluster.sizing import Bounds, Machine, Size, size
from quarterdeck.scheduling.snapshot import Demand

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
LONG_AGO = NOW - timedelta(hours=1)
BOUNDS = Bounds(min_replicas=0, max_replicas=4, idle_after=600.0)


def here(pod: str, **fields: Any) -> Machine:
    return Machine(pod, joined=True, **fields)


def decide(ordered: int, *machines: Machine, bounds: Bounds = BOUNDS, **demand: Any) -> Size:
    return size(bounds, ordered, machines, Demand(**demand), NOW)


def test_waiting_gangs_bring_machines() -> None:
    made = decide(1, here("a", busy=True), new=2, whom=("job/x", "job/y"))
    assert (made.wanted, made.constraint) == (3, "demand")
    assert made.bound_by == "2 machines for job/x, job/y"


def test_never_more_than_the_most() -> None:
    made = decide(3, *(here(p, busy=True) for p in "abc"), new=9, whom=("job/x",))
    assert made.wanted == 4


def test_at_least_the_least() -> None:
    made = decide(0, bounds=Bounds(2, 4, 600.0))
    assert (made.wanted, made.constraint) == (2, "min_replicas")


def test_what_idles_for_long_goes_and_is_named() -> None:
    made = decide(
        3, here("a", busy=True), here("b", idle_since=LONG_AGO), here("c", idle_since=NOW)
    )
    assert (made.wanted, made.remove, made.constraint) == (2, ("b",), "idle")
    assert made.idle_since == {"c": NOW}


def test_the_clock_of_idleness_starts_now_and_stops_at_work() -> None:
    assert decide(1, here("a")).idle_since == {"a": NOW}
    assert decide(1, here("a", busy=True, idle_since=LONG_AGO)).idle_since == {}


def test_the_least_stays_however_long_it_idles() -> None:
    idle = [here(pod, idle_since=LONG_AGO) for pod in "abc"]
    made = decide(3, *idle, bounds=Bounds(2, 4, 600.0))
    assert (made.wanted, made.remove) == (2, ("a",))


@pytest.mark.parametrize("state", ["busy", "fixed", "dying"])
def test_what_must_stay_stays(state: str) -> None:
    made = decide(1, here("a", idle_since=LONG_AGO, **{state: True}))
    assert (made.wanted, made.remove) == (1, ())


@pytest.mark.parametrize("state", ["leaving", "doomed"])
def test_what_goes_anyhow_goes_at_once(state: str) -> None:
    made = decide(2, here("a", idle_since=NOW), here("b", idle_since=NOW, **{state: True}))
    assert (made.wanted, made.remove) == (1, ("b",))


def test_a_machine_that_was_to_go_is_recalled_before_one_is_ordered() -> None:
    made = decide(2, here("a", busy=True), here("b", leaving=True), new=2, whom=("job/x",))
    assert (made.wanted, made.recall, made.remove) == (3, ("b",), ())


def test_what_has_not_come_and_nobody_needs_is_ordered_no_more() -> None:
    """Two are ordered that have no pod yet; one gang still needs one of them."""
    made = decide(3, here("a", busy=True), coming=1, whom=("job/x",))
    assert (made.wanted, made.remove) == (2, ())


def test_of_those_that_are_coming_the_oldest_are_waited_for() -> None:
    old, new = Machine("old", idle_since=LONG_AGO), Machine("new", idle_since=LONG_AGO)
    made = decide(2, old, new, coming=1, whom=("job/x",))
    assert (made.wanted, made.remove) == (1, ("new",))


def test_more_than_the_most_go_only_where_nothing_runs() -> None:
    machines = (here("a", busy=True), here("b", busy=True), here("c", idle_since=NOW))
    made = decide(3, *machines, bounds=Bounds(0, 1, 600.0))
    assert (made.wanted, made.remove, made.constraint) == (2, ("c",), "max_replicas")


def test_a_quota_binds() -> None:
    made = size(BOUNDS, 2, [here("a", busy=True)], Demand(coming=1, whom=("job/x",)), NOW, "full")
    assert (made.wanted, made.constraint, made.bound_by) == (2, "quota", "full")


def test_a_blocked_gang_is_told() -> None:
    busy = [here(pod, busy=True) for pod in "abcd"]
    made = decide(4, *busy, blocked="job/wide")
    assert made.constraint == "max_replicas"
    assert "job/wide waits for what runs to end" in made.bound_by


MACHINES = st.builds(
    Machine,
    pod=st.uuids().map(str),
    joined=st.booleans(),
    busy=st.booleans(),
    fixed=st.booleans(),
    leaving=st.booleans(),
    doomed=st.booleans(),
    dying=st.booleans(),
    idle_since=st.sampled_from([None, LONG_AGO, NOW]),
)


@given(
    machines=st.lists(MACHINES, max_size=8, unique_by=lambda one: one.pod),
    absent=st.integers(0, 4),
    least=st.integers(0, 4),
    span=st.integers(0, 8),
    new=st.integers(0, 6),
    coming=st.integers(0, 6),
)
def test_any_group(
    machines: list[Machine], absent: int, least: int, span: int, new: int, coming: int
) -> None:
    bounds = Bounds(least, least + span, 600.0)
    ordered = len(machines) + absent
    made = size(bounds, ordered, machines, Demand(new, coming, ("job/x",)), NOW)
    by_pod = {one.pod: one for one in machines}
    removed = [by_pod[pod] for pod in made.remove]
    assert all(one.may_go for one in removed), "nothing goes on which something runs"
    assert made.wanted >= min(ordered, least), "the least is never undercut"
    assert made.wanted <= max(bounds.max_replicas, ordered), "the most is never passed"
    assert made.wanted >= len(machines) - len(removed), "no pod goes without being named"
    assert not (made.wanted > ordered and removed), "it never grows and shrinks at once"
    assert not set(made.remove) & set(made.idle_since)
    assert made.bound_by and made == size(
        bounds, ordered, machines, Demand(new, coming, ("job/x",)), NOW
    )


@given(st.integers(0, 8), st.integers(0, 8), st.integers(0, 6))
def test_more_demand_never_gets_fewer(ordered: int, new: int, more: int) -> None:
    machines = [here(str(i), busy=True) for i in range(ordered)]
    bounds = Bounds(0, 10, 600.0)
    first = size(bounds, ordered, machines, Demand(new), NOW)
    assert size(bounds, ordered, machines, Demand(new + more), NOW).wanted >= first.wanted
