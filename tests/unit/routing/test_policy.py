from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.routing.policies import DEFAULT, POLICIES
from quarterdeck.routing.replicas import Refusal, ReplicaView, RouteRequest

views = st.builds(
    ReplicaView,
    run_id=st.uuids().map(str),
    url=st.just("http://replica"),
    ready=st.booleans(),
    draining=st.booleans(),
    ejected=st.booleans(),
    in_flight=st.integers(0, 200),
    weight=st.integers(1, 4),
)
fleets = st.lists(views, max_size=12, unique_by=lambda view: view.run_id)


def replica(name: str, in_flight: int = 0, **values: object) -> ReplicaView:
    return replace(ReplicaView(name, f"http://{name}"), in_flight=in_flight, **values)


@given(fleets, st.integers(), st.data())
def test_only_ready_undrained_untried_replicas_are_chosen(
    fleet: list[ReplicaView], seed: int, data: st.DataObject
) -> None:
    tried = frozenset(data.draw(st.sets(st.sampled_from([r.run_id for r in fleet] or [""]))))
    choice = DEFAULT.choose(RouteRequest(tried), fleet, Random(seed))
    able = [r for r in fleet if r.ready and not r.draining and r.run_id not in tried]
    if isinstance(choice, Refusal):
        assert not able
    else:
        assert choice in able
        healthy = [r for r in able if not r.ejected]
        assert choice in (healthy or able)


@given(fleets, st.integers())
def test_nobody_chosen_has_more_in_flight_than_an_equal(
    fleet: list[ReplicaView], seed: int
) -> None:
    fleet = [replace(r, weight=1) for r in fleet]
    choice = DEFAULT.choose(RouteRequest(), fleet, Random(seed))
    if isinstance(choice, ReplicaView):
        rivals = [r for r in fleet if r.ready and not r.draining and r.ejected == choice.ejected]
        assert choice.in_flight == min(r.in_flight for r in rivals)


@given(st.integers(2, 6), st.integers(1, 300), st.integers())
def test_requests_that_stay_spread_evenly(count: int, requests: int, seed: int) -> None:
    random = Random(seed)
    fleet = [replica(f"r{i}") for i in range(count)]
    for _ in range(requests):
        choice = DEFAULT.choose(RouteRequest(), fleet, random)
        assert isinstance(choice, ReplicaView)
        fleet = [
            replace(r, in_flight=r.in_flight + 1) if r.run_id == choice.run_id else r for r in fleet
        ]
    loads = [r.in_flight for r in fleet]
    assert sum(loads) == requests
    assert max(loads) - min(loads) <= 1


def test_ties_are_broken_by_chance_and_weights_share_in_proportion() -> None:
    random = Random(1)
    idle = [replica(f"r{i}") for i in range(4)]
    drawn = Counter(_run_id(DEFAULT.choose(RouteRequest(), idle, random)) for _ in range(4000))
    assert all(850 < drawn[r.run_id] < 1150 for r in idle)
    fleet = [replica("big", weight=3), replica("small")]
    for _ in range(400):
        chosen = _run_id(DEFAULT.choose(RouteRequest(), fleet, random))
        fleet = [replace(r, in_flight=r.in_flight + (r.run_id == chosen)) for r in fleet]
    assert abs(fleet[0].in_flight - 300) <= 2


def _run_id(choice: ReplicaView | Refusal) -> str:
    assert isinstance(choice, ReplicaView)
    return choice.run_id


@pytest.mark.parametrize(
    ("fleet", "tried", "reason"),
    [
        ([], (), "no_replicas"),
        ([replica("a", draining=True)], (), "draining"),
        ([replica("a", ready=False), replica("b", draining=True)], (), "not_ready"),
        ([replica("a"), replica("b", ready=False)], ("a",), "all_tried"),
    ],
)
def test_refusals_say_why(fleet: list[ReplicaView], tried: tuple[str, ...], reason: str) -> None:
    choice = DEFAULT.choose(RouteRequest(frozenset(tried)), fleet, Random(0))
    assert isinstance(choice, Refusal)
    assert choice.reason == reason


def test_policies_are_found_by_name() -> None:
    assert POLICIES["least-in-flight"] is DEFAULT
