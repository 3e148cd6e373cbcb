"""What this gateway knows of replicas beyond the snapshot: requests in flight, latency, failures,
the engines' own numbers, and for each service its routing policy with what that remembers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from quarterdeck.gateway.engine_loads import EngineLoad
from quarterdeck.routing import policies
from quarterdeck.routing.latency import PeakEwma, observe
from quarterdeck.routing.outliers import Ejection, Outcome, Outliers, OutlierSettings
from quarterdeck.routing.policy import RoutingPolicy
from quarterdeck.routing.replicas import ReplicaView, RouteRequest
from quarterdeck.routing.slow_start import ramp
from quarterdeck.specs.gateway_snapshot import EngineEndpoint, GatewaySnapshot, ServiceRoute
from quarterdeck.specs.routing import RoutingSettings

_log = logging.getLogger(__name__)
LOAD_VALID_S = 5.0
"""An engine's own numbers count for so long."""
_LONG_AGO = float("-inf")
_SILENT = EngineLoad()


@dataclass
class _Service:
    settings: RoutingSettings
    policy: RoutingPolicy
    outliers: Outliers
    endpoints: list[EngineEndpoint] | None = None
    """Those that the views are of."""
    views: list[ReplicaView] = field(default_factory=list)
    settled: bool = False
    """Nothing of the views will change by time alone, nor has changed, but what is in flight."""


@dataclass
class _Replica:
    service: tuple[str, str]
    url: str = ""
    ready_since: float | None = None
    latency: PeakEwma | None = None
    load: EngineLoad = field(default=_SILENT)
    load_until: float = _LONG_AGO
    in_flight_then: int = 0


class Fleet:
    """Counts by run. `clock` gives seconds that never go back; `on_ejection` is told project,
    service and run of each ejection, and why."""

    def __init__(
        self,
        clock: Callable[[], float],
        settings: OutlierSettings | None = None,
        on_ejection: Callable[[str, str, str, Ejection], None] | None = None,
    ) -> None:
        self._clock = clock
        self._settings = settings or OutlierSettings()
        self._on_ejection = on_ejection
        self._in_flight: dict[str, int] = {}
        self._services: dict[tuple[str, str], _Service] = {}
        self._replicas: dict[str, _Replica] = {}
        self._heard = False
        self.active = 0
        self.retrying = 0

    def apply(self, snapshot: GatewaySnapshot) -> None:
        """Follow a new snapshot: forget what is gone, switch policies whose settings changed."""
        now = self._clock()
        services: dict[tuple[str, str], _Service] = {}
        replicas: dict[str, _Replica] = {}
        for route in snapshot.services:
            key = (route.project, route.name)
            runs = frozenset(endpoint.run_id for endpoint in route.endpoints)
            service = self._services.get(key)
            if service is None:
                service = self._new_service(route)
            elif service.settings != route.routing:
                service.settings = route.routing
                service.policy = policies.build(route.routing)
            service.policy.keep(runs)
            service.outliers.keep(runs)
            service.settled = False
            services[key] = service
            for endpoint in route.endpoints:
                replica = self._replicas.get(endpoint.run_id) or _Replica(key)
                replica.url = endpoint.url
                if not endpoint.ready:
                    replica.ready_since = None
                elif replica.ready_since is None:
                    # Those that this gateway finds ready at its own start are not new.
                    replica.ready_since = now if self._heard else _LONG_AGO
                replicas[endpoint.run_id] = replica
        self._services, self._replicas, self._heard = services, replicas, True

    def policy(self, route: ServiceRoute) -> RoutingPolicy:
        """The service's policy, with what it remembers."""
        return self._service(route).policy

    def views(self, route: ServiceRoute) -> list[ReplicaView]:
        """The replicas of a service as routing sees them now; the next call changes them."""
        service = self._service(route)
        if service.endpoints is not route.endpoints:
            service.endpoints, service.settled = route.endpoints, False
            service.views = [
                ReplicaView(
                    endpoint.run_id, endpoint.url, endpoint.ready, endpoint.draining,
                    limit=route.concurrency, weight=endpoint.weight, revision=endpoint.revision,
                )
                for endpoint in route.endpoints
            ]  # fmt: skip
        in_flight = self._in_flight
        for view in service.views:
            view.in_flight = in_flight.get(view.run_id, 0)
        if not service.settled:
            now = self._clock()
            reads_latency = service.policy.name in policies.READS_LATENCY
            quiet = [self._look(view, service, now) for view in service.views]
            service.settled = all(quiet) and not reads_latency
        return service.views

    def in_flight(self, run_id: str) -> int:
        """Requests of this gateway that are under way on a replica."""
        return self._in_flight.get(run_id, 0)

    def flight(
        self, route: ServiceRoute, request: RouteRequest, replica: ReplicaView
    ) -> AbstractContextManager[None]:
        """Counts one try of a request on a replica; one that was tried before is a retry."""
        self._service(route).policy.sent(request, replica)
        return _Flight(self, self._in_flight, replica.run_id, bool(request.tried))

    def record(self, run_id: str, outcome: Outcome) -> None:
        """Remember how a try ended."""
        replica = self._replicas.get(run_id)
        if replica is None:
            return
        key = replica.service
        service = self._services[key]
        ejections = service.outliers.record(run_id, outcome, self._clock())
        if ejections or outcome != "answered":
            service.settled = False
        for ejected, why in ejections:
            _log.warning("replica %s of service %s/%s is ejected: %s", ejected, *key, why)
            if self._on_ejection is not None:
                self._on_ejection(*key, ejected, why)

    def first_byte(self, run_id: str, seconds: float) -> None:
        """A try was answered; its first byte came after so many seconds."""
        replica = self._replicas.get(run_id)
        if replica is not None:
            replica.latency = observe(replica.latency, seconds, self._clock())

    def told(self, run_id: str, load: EngineLoad) -> None:
        """A replica's engine told its own numbers."""
        replica = self._replicas.get(run_id)
        if replica is not None:
            replica.load, replica.load_until = load, self._clock() + LOAD_VALID_S
            replica.in_flight_then = self._in_flight.get(run_id, 0)
            self._services[replica.service].settled = False

    def engines_to_ask(self) -> list[tuple[str, str]]:
        """Run and address of the replicas whose own numbers their service's policy looks at."""
        return [
            (run_id, replica.url)
            for run_id, replica in self._replicas.items()
            if replica.ready_since is not None
            and self._services[replica.service].policy.name in policies.READS_ENGINES
        ]

    def _service(self, route: ServiceRoute) -> _Service:
        # A request may hold a route of a snapshot before the last one.
        known = self._services.get((route.project, route.name))
        return known if known is not None else self._new_service(route)

    def _new_service(self, route: ServiceRoute) -> _Service:
        return _Service(route.routing, policies.build(route.routing), Outliers(self._settings))

    def _look(self, view: ReplicaView, service: _Service, now: float) -> bool:
        """Say in a view what changes; whether it will stay so."""
        replica = self._replicas.get(view.run_id) or _Replica(("", ""))
        rest = service.outliers.rest_of(view.run_id, now)
        view.ejected, view.unreachable = rest in ("ejected", "failing"), rest == "unreachable"
        since = _LONG_AGO if replica.ready_since is None else replica.ready_since
        view.ramp = ramp(since, now, service.settings.slow_start)
        view.latency = replica.latency.at(now) if replica.latency else None
        load = replica.load if now < replica.load_until else _SILENT
        view.waiting, view.kv_free = load.waiting, load.kv_free
        if view.waiting is not None:
            # What was sent and answered since counts, else all run to the same one for a second.
            view.waiting = max(0, view.waiting + view.in_flight - replica.in_flight_then)
        view.adapters, view.adapters_waiting = load.adapters, load.adapters_waiting
        view.adapter_slots = load.adapter_slots
        return not rest and view.ramp == 1.0 and load is _SILENT


class _Flight:
    """See `Fleet.flight`."""

    __slots__ = ("_fleet", "_in_flight", "_retry", "_run_id")

    def __init__(self, fleet: Fleet, in_flight: dict[str, int], run_id: str, retry: bool) -> None:
        self._fleet = fleet
        self._in_flight = in_flight
        self._run_id = run_id
        self._retry = retry

    def __enter__(self) -> None:
        self._fleet.retrying += self._retry
        self._in_flight[self._run_id] = self._in_flight.get(self._run_id, 0) + 1

    def __exit__(self, *error: object) -> None:
        self._fleet.retrying -= self._retry
        left = self._in_flight[self._run_id] - 1
        if left:
            self._in_flight[self._run_id] = left
        else:
            del self._in_flight[self._run_id]
