"""Who gets how much under each policy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.routing.latency import PeakEwma, observe
from quarterdeck.routing.pickers.two_of import two_of
from quarterdeck.routing.pickers.weighted_random import weighted_random
from quarterdeck.routing.policies import build
from quarterdeck.routing.policy import RoutingPolicy
from quarterdeck.routing.replicas import ReplicaView, RouteRequest
from quarterdeck.specs.routing import RoutingSettings

Fleet = Sequence[ReplicaView]


def replica(name: str, in_flight: int = 0, **values: object) -> ReplicaView:
    return replace(ReplicaView(name, f"http://{name}"), in_flight=in_flight, **values)


def policy(name: str, **values: object) -> RoutingPolicy:
    return build(RoutingSettings.model_validate({"policy": name, **values}))


def pick(
    chooser: RoutingPolicy, fleet: Fleet, random: Random, request: RouteRequest | None = None
) -> ReplicaView:
    request = request or RouteRequest()
    choice = chooser.choose(request, fleet, random)
    assert isinstance(choice, ReplicaView)
    chooser.sent(request, choice)
    return choice


def drawn(
    chooser: RoutingPolicy, fleet: Fleet, count: int, request: RouteRequest | None = None
) -> Counter[str]:
    random = Random(1)
    return Counter(pick(chooser, fleet, random, request).run_id for _ in range(count))


def stay(chooser: RoutingPolicy, fleet: Fleet, count: int, seed: int = 1) -> dict[str, int]:
    """Requests that never end, one after the other."""
    random, now = Random(seed), list(fleet)
    for _ in range(count):
        chosen = pick(chooser, now, random).run_id
        now = [replace(r, in_flight=r.in_flight + (r.run_id == chosen)) for r in now]
    return {r.run_id: r.in_flight for r in now}


@given(st.integers(2, 6), st.integers(1, 60), st.integers())
def test_round_robin_gives_turns_alike_whatever_the_load(
    count: int, requests: int, seed: int
) -> None:
    chooser, random = policy("round_robin"), Random(seed)
    fleet = [replica(f"r{i}", in_flight=7 * i, weight=i + 1) for i in range(count)]
    order = [pick(chooser, fleet, random).run_id for _ in range(requests)]
    for start in range(0, requests - count + 1, count):
        assert len(set(order[start : start + count])) == count


def test_who_was_away_does_not_catch_up() -> None:
    chooser = policy("round_robin")
    two = [replica("a"), replica("b")]
    drawn(chooser, two, 100)
    assert 10 <= drawn(chooser, [*two, replica("new")], 30)["new"] <= 11
    drawn(chooser, two, 100)
    assert drawn(chooser, [*two, replica("new")], 30)["new"] <= 11


def test_a_replica_that_has_just_started_gets_fewer_turns() -> None:
    fleet = [replica("a"), replica("b"), replica("new", ramp=0.1)]
    assert 95 <= drawn(policy("round_robin"), fleet, 2100)["new"] <= 105


@given(st.lists(st.integers(1, 5), min_size=2, max_size=5))
def test_weighted_turns_are_in_proportion(weights: list[int]) -> None:
    fleet = [replica(f"r{i}", weight=weight) for i, weight in enumerate(weights)]
    counts = drawn(policy("weighted"), fleet, 10 * sum(weights))
    for index, weight in enumerate(weights):
        assert abs(counts[f"r{index}"] - 10 * weight) <= 1


@given(st.integers(2, 6), st.integers(1, 100), st.integers())
def test_fewest_requests_spreads_what_stays_evenly(count: int, requests: int, seed: int) -> None:
    fleet = [replica(f"r{i}") for i in range(count)]
    loads = stay(policy("least_requests"), fleet, requests, seed).values()
    assert sum(loads) == requests and max(loads) - min(loads) <= 1


def test_fewest_requests_goes_by_weight_and_breaks_ties_by_chance() -> None:
    idle = [replica(f"r{i}") for i in range(4)]
    assert all(850 < count < 1150 for count in drawn(policy("least_requests"), idle, 4000).values())
    loads = stay(policy("least_requests"), [replica("big", weight=3), replica("small")], 400)
    assert abs(loads["big"] - 300) <= 2


def test_two_choices_are_even_when_idle_and_never_take_the_fullest() -> None:
    idle = [replica(f"r{i}") for i in range(4)]
    assert all(850 < count < 1150 for count in drawn(policy("power_of_two"), idle, 4000).values())
    loaded = [replica(f"r{i}", in_flight=i) for i in range(4)]
    counts = drawn(policy("power_of_two"), loaded, 6000)
    # Of the six pairs the emptiest wins three, the next two, the third one.
    assert counts["r3"] == 0
    assert abs(counts["r0"] - 3000) < 200 and abs(counts["r1"] - 2000) < 200


@given(st.integers(2, 10), st.integers())
def test_two_choices_keep_what_stays_nearly_even(count: int, seed: int) -> None:
    loads = stay(policy("power_of_two"), [replica(f"r{i}") for i in range(count)], 200, seed)
    assert max(loads.values()) - min(loads.values()) <= 7


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.integers())
def test_two_of_never_takes_the_worst_alone(scores: list[float], seed: int) -> None:
    fleet = [replica(f"r{i}") for i in range(len(scores))]
    chosen = fleet.index(two_of(fleet, scores, Random(seed)))
    assert len(scores) == 1 or scores[chosen] >= sorted(scores)[1]


def test_latency_avoids_the_slow_one_but_tries_the_unknown() -> None:
    fleet = [replica("a", latency=0.1), replica("b", latency=0.1), replica("slow", latency=1.0)]
    assert drawn(policy("latency"), fleet, 1000)["slow"] == 0
    busy = [replica("a", 19, latency=0.1), replica("b", 19, latency=0.1), fleet[2]]
    assert drawn(policy("latency"), busy, 1000)["slow"] > 600
    unknown = [*fleet[:2], replica("new")]
    assert 250 < drawn(policy("latency"), unknown, 1000)["new"] < 420


def test_weighted_random_draws_among_the_nearly_best() -> None:
    fleet = [replica("a"), replica("b", weight=3), replica("c"), replica("d", ramp=0.1)]
    random = Random(1)
    scores = [1.0, 0.95, 0.5, 1.0]
    counts = Counter(weighted_random(fleet, scores, random).run_id for _ in range(5000))
    assert counts["c"] == 0
    for name, part in {"a": 1.0, "b": 2.85, "d": 0.1}.items():
        assert abs(counts[name] / 5000 - part / 3.95) < 0.03
    assert weighted_random([replica("none", weight=0)], [0.0], random).run_id == "none"


def _even(counts: Counter[str], names: str, each: float) -> bool:
    return set(counts) == set(names) and all(abs(counts[n] - each) < 0.25 * each for n in names)


def test_queue_weighs_engine_numbers_and_cached_prefixes() -> None:
    def chosen(fleet: Fleet, request: RouteRequest | None = None) -> Counter[str]:
        return drawn(policy("queue"), fleet, 900, request)

    equal = [replica(name, waiting=2, kv_free=0.5) for name in "abc"]
    assert _even(chosen(equal), "abc", 300)
    queued = [replica("a", waiting=9, kv_free=0.5), *equal[1:]]
    assert _even(chosen(queued), "bc", 450)
    full = [replica("a", waiting=2, kv_free=0.0), *equal[1:]]
    assert _even(chosen(full), "bc", 450)
    # One engine that tells nothing: requests in flight stand for all queues.
    silent = [replica("a", 0), replica("b", 8, waiting=0), replica("c", 8, waiting=0)]
    assert set(chosen(silent)) == {"a"}
    warm = policy("queue")
    request = RouteRequest(prompt="long " * 100, opening="long ")
    warm.sent(request, queued[0])
    slightly = [replica("a", waiting=3, kv_free=0.5), replica("b", waiting=2, kv_free=0.5),
                replica("c", waiting=9, kv_free=0.5)]  # fmt: skip
    assert set(drawn(warm, slightly, 1, request)) == {"a"}


def test_adapters_go_where_they_are_loaded_unless_the_queue_is_long() -> None:
    wants = RouteRequest(adapter="x")
    room = {"adapter_slots": 2}
    loaded = replica("loaded", adapters=frozenset({"x", "y"}), waiting=0, **room)
    free = replica("free", adapters=frozenset({"y"}), waiting=0, **room)
    full = replica("full", adapters=frozenset({"y", "z"}), waiting=0, **room)
    coming = replica(
        "coming", adapters=frozenset({"y"}), adapters_waiting=frozenset({"x"}), waiting=0, **room
    )
    chooser = policy("adapter")
    said = chooser.explain(wants, [loaded, free, full, coming], Random(0))
    assert {one.run_id: one.parts["adapter"] for one in said.candidates} == {
        "loaded": 1.0, "free": 0.8, "full": 0.0, "coming": 0.6,
    }  # fmt: skip
    assert set(drawn(chooser, [loaded, free, full, coming], 300, wants)) == {"loaded"}
    assert set(drawn(chooser, [free, full, coming], 300, wants)) == {"free"}
    busy = replace(loaded, waiting=9)
    assert set(drawn(chooser, [busy, free], 300, wants)) == {"free"}
    assert _even(drawn(chooser, [loaded, free, full], 900), ("loaded", "free", "full"), 300)  # type: ignore[arg-type]


def test_a_slow_replica_gets_less_the_more_a_policy_looks() -> None:
    """Ten seconds of 40 requests a second; an answer takes 0.1 s, on one replica 1 s."""

    def share(name: str) -> float:
        return simulate(policy(name), lambda run: 1.0 if run == "slow" else 0.1)

    in_turn, counted, measured = share("round_robin"), share("power_of_two"), share("latency")
    assert abs(in_turn - 0.25) < 0.01
    assert measured < counted < 0.6 * in_turn


def simulate(chooser: RoutingPolicy, takes: Callable[[str], float]) -> float:
    """The slow replica's share of the requests."""
    random, ends, sent = Random(3), list[tuple[float, str]](), Counter[str]()
    averages: dict[str, PeakEwma] = {}
    for step in range(400):
        now = step / 40
        for end, run in [one for one in ends if one[0] <= now]:
            averages[run] = observe(averages.get(run), takes(run), end)
        ends = [one for one in ends if one[0] > now]
        busy = Counter(run for _, run in ends)
        fleet = [
            replica(run, busy[run], latency=averages[run].at(now) if run in averages else None)
            for run in ("a", "b", "c", "slow")
        ]
        run = pick(chooser, fleet, random).run_id
        sent[run] += 1
        ends.append((now + takes(run), run))
    return sent["slow"] / 400
