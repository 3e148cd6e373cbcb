"""What a gateway remembers of services and replicas."""

from __future__ import annotations

from random import Random

from quarterdeck.gateway.engine_loads import EngineLoad
from quarterdeck.gateway.fleet import Fleet
from quarterdeck.routing.replicas import ReplicaView, RouteRequest
from quarterdeck.specs.gateway_snapshot import EngineEndpoint, GatewaySnapshot, ServiceRoute
from quarterdeck.specs.routing import RoutingSettings


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def route(*runs: str, ready: bool = True, **routing: object) -> ServiceRoute:
    endpoints = [EngineEndpoint(run_id=run, url=f"http://{run}", ready=ready) for run in runs]
    settings = RoutingSettings.model_validate(routing)
    return ServiceRoute(
        name="chat", project="p", model_version=None, endpoints=endpoints, routing=settings
    )


def told(*routes: ServiceRoute) -> GatewaySnapshot:
    return GatewaySnapshot(version="1", services=list(routes), keys=[])


def views(fleet: Fleet, service: ServiceRoute) -> dict[str, ReplicaView]:
    return {view.run_id: view for view in fleet.views(service)}


def test_a_policy_lives_as_long_as_its_settings_and_switches_live() -> None:
    fleet, service = Fleet(Clock()), route("a", "b")
    fleet.apply(told(service))
    first = fleet.policy(service)
    assert first.name == "power_of_two"
    fleet.apply(told(route("a", "b", "c")))
    assert fleet.policy(service) is first
    turned = route("a", "b", policy="round_robin")
    fleet.apply(told(turned))
    assert fleet.policy(service).name == "round_robin"
    picks = []
    for _ in range(6):
        request = RouteRequest()
        chosen = fleet.policy(turned).choose(request, fleet.views(turned), Random(0))
        assert isinstance(chosen, ReplicaView)
        with fleet.flight(turned, request, chosen):
            assert views(fleet, turned)[chosen.run_id].in_flight == 1
        picks.append(chosen.run_id)
    assert all(set(picks[at : at + 2]) == {"a", "b"} for at in (0, 2, 4))


def test_switching_keeps_latency_rests_and_what_is_in_flight() -> None:
    clock = Clock()
    fleet, service = Fleet(clock), route("a", "b")
    fleet.apply(told(service))
    chosen = views(fleet, service)["a"]
    fleet.first_byte("a", 0.5)
    fleet.record("b", "unreachable")
    with fleet.flight(service, RouteRequest(tried=frozenset({"x"})), chosen):
        assert fleet.retrying == 1
        turned = route("a", "b", policy="latency")
        fleet.apply(told(turned))
        seen = views(fleet, turned)
        assert seen["a"].in_flight == 1 and seen["a"].latency == 0.5 and seen["b"].unreachable
    assert fleet.retrying == 0 and views(fleet, turned)["a"].in_flight == 0
    clock.now += 5
    later = views(fleet, turned)
    assert (later["a"].latency or 0) < 0.5 and not later["b"].unreachable


def test_only_replicas_that_become_ready_later_start_slowly() -> None:
    clock = Clock()
    fleet = Fleet(clock)
    fleet.apply(told(route("a")))
    assert views(fleet, route("a"))["a"].ramp == 1.0
    fleet.apply(told(ServiceRoute(
        name="chat", project="p", model_version=None,
        endpoints=[*route("a").endpoints, *route("new", ready=False).endpoints],
    )))  # fmt: skip
    clock.now += 60
    both = route("a", "new")
    fleet.apply(told(both))
    clock.now += 5
    assert {run: view.ramp for run, view in views(fleet, both).items()} == {"a": 1.0, "new": 0.5}
    fleet.apply(told(route("a", "new", ready=False)))
    clock.now += 60
    fleet.apply(told(both))
    assert [view.ramp for view in fleet.views(both)] == [0.1, 0.1]  # well again: caches are cold
    quick = route("a", "new", slow_start=0)
    fleet.apply(told(quick))
    assert views(fleet, quick)["new"].ramp == 1.0


def test_ejections_are_told_and_what_is_gone_is_forgotten() -> None:
    ejected: list[tuple[str, ...]] = []
    fleet = Fleet(Clock(), on_ejection=lambda *what: ejected.append(what))
    service = route("a", "b")
    fleet.apply(told(service))
    for _ in range(5):
        fleet.record("a", "server_error")
    assert ejected == [("p", "chat", "a", "consecutive_errors")]
    assert views(fleet, service)["a"].ejected
    fleet.apply(told())
    fleet.record("a", "server_error")
    fleet.first_byte("a", 1.0)
    fleet.apply(told(service))
    assert not views(fleet, service)["a"].ejected
    assert views(fleet, service)["a"].latency is None


def test_engines_are_asked_only_where_the_policy_looks_and_numbers_run_out() -> None:
    clock = Clock()
    fleet, service = Fleet(clock), route("a", "b")
    fleet.apply(told(service))
    assert fleet.engines_to_ask() == []
    service = route("a", "b", policy="queue")
    fleet.apply(told(service))
    assert fleet.engines_to_ask() == [("a", "http://a"), ("b", "http://b")]
    fleet.told("a", EngineLoad(waiting=3, kv_free=0.25))
    assert views(fleet, service)["a"].waiting == 3 and views(fleet, service)["a"].kv_free == 0.25
    with fleet.flight(service, RouteRequest(), views(fleet, service)["a"]):
        assert views(fleet, service)["a"].waiting == 4  # what was sent since counts
        fleet.told("a", EngineLoad(waiting=1))
        assert views(fleet, service)["a"].waiting == 1
    assert views(fleet, service)["a"].waiting == 0
    clock.now += 5
    assert views(fleet, service)["a"].waiting is None
