"""What this gateway knows of replicas beyond the snapshot: requests in flight, latency, failures,
the engines' own numbers, and for each service its routing policy with what that remembers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
        """The replicas of a service as routing sees them now."""
        now = self._clock()
        service = self._service(route)
        return [self._view(endpoint, route, service, now) for endpoint in route.endpoints]

    def in_flight(self, run_id: str) -> int:
        """Requests of this gateway that are under way on a replica."""
        return self._in_flight.get(run_id, 0)

    @contextmanager
    def flight(
        self, route: ServiceRoute, request: RouteRequest, replica: ReplicaView
    ) -> Iterator[None]:
        """Counts one try of a request on a replica; one that was tried before is a retry."""
        run_id, retry = replica.run_id, bool(request.tried)
        self._in_flight[run_id] = self._in_flight.get(run_id, 0) + 1
        self.retrying += retry
        self._service(route).policy.sent(request, replica)
        try:
            yield
        finally:
            self.retrying -= retry
            self._in_flight[run_id] -= 1
            if self._in_flight[run_id] == 0:
                del self._in_flight[run_id]

    @contextmanager
    def request(self) -> Iterator[None]:
        """Counts one request however often it is tried."""
        self.active += 1
        try:
            yield
        finally:
            self.active -= 1

    def record(self, run_id: str, outcome: Outcome) -> None:
        """Remember how a try ended."""
        replica = self._replicas.get(run_id)
        if replica is None:
            return
        key = replica.service
        for ejected, why in self._services[key].outliers.record(run_id, outcome, self._clock()):
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

    def _view(
        self, endpoint: EngineEndpoint, route: ServiceRoute, service: _Service, now: float
    ) -> ReplicaView:
        run_id = endpoint.run_id
        replica = self._replicas.get(run_id) or _Replica(("", ""))
        rest = service.outliers.rest_of(run_id, now)
        load = replica.load if now < replica.load_until else _SILENT
        since = _LONG_AGO if replica.ready_since is None else replica.ready_since
        in_flight = self._in_flight.get(run_id, 0)
        waiting = load.waiting
        if waiting is not None:
            # What was sent and answered since counts, else all run to the same one for a second.
            waiting = max(0, waiting + in_flight - replica.in_flight_then)
        return ReplicaView(
            run_id=run_id,
            url=endpoint.url,
            ready=endpoint.ready,
            draining=endpoint.draining,
            ejected=rest == "ejected",
            unreachable=rest == "unreachable",
            in_flight=in_flight,
            limit=route.concurrency,
            weight=endpoint.weight,
            ramp=ramp(since, now, service.settings.slow_start),
            latency=replica.latency.at(now) if replica.latency else None,
            waiting=waiting,
            kv_free=load.kv_free,
            adapters=load.adapters,
            adapters_waiting=load.adapters_waiting,
            adapter_slots=load.adapter_slots,
            revision=endpoint.revision,
        )
