"""Consistent hashing with bounded loads."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.routing.policies import build
from quarterdeck.routing.replicas import ReplicaView, RouteRequest
from quarterdeck.specs.routing import RoutingSettings

BOUND = 1.25


def fleet_of(count: int) -> list[ReplicaView]:
    return [ReplicaView(f"run-{i}", f"http://run-{i}") for i in range(count)]


def owner(fleet: list[ReplicaView], session: str, seed: int = 0) -> str:
    """By a gateway of its own each time: nothing is remembered."""
    policy = build(RoutingSettings(policy="session", load_bound=BOUND))
    chosen = policy.choose(RouteRequest(session=session), fleet, Random(seed))
    assert isinstance(chosen, ReplicaView)
    return chosen.run_id


@given(st.text(min_size=1), st.integers(1, 8), st.randoms(use_true_random=False), st.integers())
def test_gateways_with_the_same_replicas_agree(
    session: str, count: int, random: Random, seed: int
) -> None:
    fleet = fleet_of(count)
    shuffled = list(fleet)
    random.shuffle(shuffled)
    assert owner(fleet, session) == owner(shuffled, session, seed)


@given(st.integers(2, 8), st.integers(0, 7))
def test_a_replica_that_leaves_moves_its_own_sessions_only(count: int, gone: int) -> None:
    fleet, sessions = fleet_of(count), [f"s{i}" for i in range(60)]
    leaving = fleet[gone % count]
    left = [one for one in fleet if one != leaving]
    unready = [replace(one, ready=one != leaving) for one in fleet]
    for session in sessions:
        before = owner(fleet, session)
        after = owner(left, session)
        assert after == owner(unready, session)
        assert before == after or before == leaving.run_id


def test_shares_are_even_and_a_new_replica_takes_its_own() -> None:
    sessions = [f"s{i}" for i in range(4000)]
    four = Counter(owner(fleet_of(4), session) for session in sessions)
    assert all(900 < count < 1100 for count in four.values())
    moved = sum(owner(fleet_of(4), s) != owner(fleet_of(5), s) for s in sessions)
    assert abs(moved - 800) < 100
    heavy = [replace(one, weight=1 + (one.run_id == "run-0")) for one in fleet_of(4)]
    assert abs(Counter(owner(heavy, s) for s in sessions)["run-0"] - 1600) < 120


@given(st.lists(st.integers(0, 40), min_size=2, max_size=8), st.text(min_size=1))
def test_nobody_is_chosen_beyond_the_bound(loads: list[int], session: str) -> None:
    fleet = [
        replace(one, in_flight=load) for one, load in zip(fleet_of(len(loads)), loads, strict=True)
    ]
    load = dict(zip([one.run_id for one in fleet], loads, strict=True))
    chosen = owner(fleet, session)
    assert load[chosen] + 1 <= math.ceil(BOUND * (sum(loads) + 1) / len(loads))
    idle = [replace(one, in_flight=0) for one in fleet]
    home = owner(idle, session)
    if load[home] + 1 <= math.ceil(BOUND * (sum(loads) + 1) / len(loads)):
        assert chosen == home


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=120), st.integers(2, 6))
def test_few_sessions_that_stay_fill_no_replica_beyond_the_bound(
    sessions: list[str], count: int
) -> None:
    fleet = fleet_of(count)
    for session in sessions:
        chosen = owner(fleet, session)
        fleet = [replace(one, in_flight=one.in_flight + (one.run_id == chosen)) for one in fleet]
    assert max(one.in_flight for one in fleet) <= math.ceil(BOUND * len(sessions) / count)


def test_without_a_session_the_fewest_in_flight() -> None:
    fleet = [replace(one, in_flight=i) for i, one in enumerate(fleet_of(3))]
    assert owner(fleet, "") == "run-0"
