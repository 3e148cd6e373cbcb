"""What holds for every policy: who is considered, what is refused, and the explanation."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quarterdeck.routing.policies import POLICIES, build
from quarterdeck.routing.replicas import Refusal, ReplicaView, RouteRequest
from quarterdeck.specs.routing import DEFAULT_POLICY, POLICY_NAMES, Routing, RoutingSettings

views = st.builds(
    ReplicaView,
    run_id=st.uuids().map(str),
    url=st.just("http://replica"),
    ready=st.booleans(),
    draining=st.booleans(),
    ejected=st.booleans(),
    unreachable=st.booleans(),
    in_flight=st.integers(0, 200),
    limit=st.none() | st.integers(0, 200),
    weight=st.integers(0, 4),
    ramp=st.floats(0.1, 1),
    latency=st.none() | st.floats(0, 100),
    waiting=st.none() | st.integers(0, 50),
    kv_free=st.none() | st.floats(0, 1),
    adapters=st.frozensets(st.sampled_from("xyz")),
    adapters_waiting=st.frozensets(st.sampled_from("xyz")),
    adapter_slots=st.none() | st.integers(0, 4),
)
fleets = st.lists(views, max_size=12, unique_by=lambda view: view.run_id)
words = st.text("ab", max_size=12)
requests = st.builds(
    RouteRequest, session=words, prompt=words, opening=words, adapter=st.sampled_from("xyz")
)


def replica(name: str, in_flight: int = 0, **values: object) -> ReplicaView:
    return replace(ReplicaView(name, f"http://{name}"), in_flight=in_flight, **values)


@pytest.mark.parametrize("name", POLICY_NAMES)
@settings(max_examples=40)
@given(fleet=fleets, sent=st.lists(requests, max_size=3), seed=st.integers(), data=st.data())
def test_only_available_replicas_are_chosen_and_the_healthy_before_others(
    name: str,
    fleet: list[ReplicaView],
    sent: list[RouteRequest],
    seed: int,
    data: st.DataObject,
) -> None:
    policy = build(RoutingSettings(policy=name))
    tried = frozenset(data.draw(st.sets(st.sampled_from([r.run_id for r in fleet] or [""]))))
    able = [r for r in fleet if r.ready and not r.draining and r.run_id not in tried]
    for request in [replace(one, tried=tried) for one in (*sent, RouteRequest())]:
        choice = policy.choose(request, fleet, Random(seed))
        if isinstance(choice, Refusal):
            assert not able
            continue
        assert choice in able
        reachable = [r for r in able if not r.unreachable]
        healthy = [r for r in reachable if not r.ejected]
        panic = 2 * len(healthy) < len(able)
        well = (reachable if panic else healthy) or able
        with_place = [r for r in well if r.limit is None or r.in_flight < r.limit]
        assert choice in (with_place or well)
        policy.sent(request, choice)


@pytest.mark.parametrize("name", POLICY_NAMES)
@settings(max_examples=40)
@given(fleet=fleets, request_=requests, seed=st.integers())
def test_an_explanation_is_the_choice_itself_and_speaks_of_everybody(
    name: str, fleet: list[ReplicaView], request_: RouteRequest, seed: int
) -> None:
    policy = build(RoutingSettings(policy=name))
    for _ in range(2):
        choice = policy.explain(request_, fleet, Random(seed))
        assert choice.chosen == policy.choose(request_, fleet, Random(seed))
        assert choice.policy == name and choice.why
        assert [one.run_id for one in choice.candidates] == [r.run_id for r in fleet]
        for one in choice.candidates:
            assert (one.score is None) == bool(one.left_out) == (not one.parts)
        if isinstance(choice.chosen, ReplicaView):
            policy.sent(request_, choice.chosen)


def test_an_explanation_says_why_the_others_were_left_out() -> None:
    fleet = [
        replica("new", ready=False),
        replica("old", draining=True),
        replica("ill", ejected=True),
        replica("cut", unreachable=True),
        replica("tried"),
        replica("full", in_flight=4, limit=4),
        *[replica(f"r{i}", in_flight=i) for i in range(4)],
    ]
    choice = build(RoutingSettings(policy="least_requests")).explain(
        RouteRequest(tried=frozenset({"tried"})), fleet, Random(0)
    )
    assert isinstance(choice.chosen, ReplicaView) and choice.chosen.run_id == "r0"
    assert choice.why == "fewest requests in flight for its weight"
    said = {one.run_id: one.left_out for one in choice.candidates if one.left_out}
    assert said == {
        "new": "it is not ready",
        "old": "it is being stopped",
        "ill": "it rests after failed answers",
        "cut": "its connection broke a moment ago",
        "tried": "this request was sent to it before",
        "full": "it is full: 4 of 4 requests",
    }
    scores = {one.run_id: one.score for one in choice.candidates if one.score is not None}
    assert scores == {"r0": 1.0, "r1": 0.5, "r2": 1 / 3, "r3": 0.25}


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
    policy = build(RoutingSettings())
    choice = policy.choose(RouteRequest(tried=frozenset(tried)), fleet, Random(0))
    assert isinstance(choice, Refusal)
    assert choice.reason == reason
    assert policy.explain(RouteRequest(tried=frozenset(tried)), fleet, Random(0)).chosen == choice


def test_below_half_healthy_everybody_takes_traffic_but_the_unreachable() -> None:
    policy = build(RoutingSettings(policy="least_requests"))

    def chosen(fleet: list[ReplicaView]) -> set[str]:
        random = Random(0)
        picks = [policy.choose(RouteRequest(), fleet, random) for _ in range(200)]
        return {pick.run_id for pick in picks if isinstance(pick, ReplicaView)}

    half = [replica("a"), replica("b"), replica("c", ejected=True), replica("d", ejected=True)]
    assert chosen(half) == {"a", "b"}
    less = [replica("a"), *[replica(n, ejected=True) for n in "bc"], replica("d", unreachable=True)]
    assert chosen(less) == {"a", "b", "c"}
    assert chosen([replica(n, unreachable=True) for n in "ab"]) == {"a", "b"}


def test_every_name_has_its_policy_and_a_name_of_the_future_gives_the_default() -> None:
    assert set(POLICIES) == set(POLICY_NAMES)
    for name in POLICY_NAMES:
        assert build(RoutingSettings(policy=name)).name == name
    assert DEFAULT_POLICY == "power_of_two"
    assert build(RoutingSettings(policy="oracle")).name == DEFAULT_POLICY
    told = RoutingSettings.model_validate({**Routing().model_dump(), "of_tomorrow": 1})
    assert told == RoutingSettings()
