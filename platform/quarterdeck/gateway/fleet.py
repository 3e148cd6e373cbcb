"""What this gateway knows of replicas beyond the snapshot: requests in flight and failures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from quarterdeck.routing.outliers import Health, Outcome, OutlierSettings, after
from quarterdeck.routing.replicas import ReplicaView
from quarterdeck.specs.gateway_snapshot import GatewaySnapshot, ServiceRoute


class Fleet:
    """Counts by run. `clock` gives seconds that never go back."""

    def __init__(self, clock: Callable[[], float], settings: OutlierSettings | None = None) -> None:
        self._clock = clock
        self._settings = settings or OutlierSettings()
        self._in_flight: dict[str, int] = {}
        self._health: dict[str, Health] = {}
        self.active = 0
        self.retrying = 0

    def views(self, route: ServiceRoute) -> list[ReplicaView]:
        """The replicas of a service as routing sees them now."""
        now = self._clock()
        return [
            ReplicaView(
                run_id=endpoint.run_id,
                url=endpoint.url,
                ready=endpoint.ready,
                draining=endpoint.draining,
                ejected=self._health.get(endpoint.run_id, Health()).ejected(now),
                in_flight=self._in_flight.get(endpoint.run_id, 0),
                weight=endpoint.weight,
            )
            for endpoint in route.endpoints
        ]

    @contextmanager
    def flight(self, run_id: str, *, retry: bool) -> Iterator[None]:
        """Counts one try of a request on a replica."""
        self._in_flight[run_id] = self._in_flight.get(run_id, 0) + 1
        self.retrying += retry
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
        health = self._health.get(run_id, Health())
        health = after(health, outcome, self._clock(), self._settings)
        if health == Health():
            self._health.pop(run_id, None)
        else:
            self._health[run_id] = health

    def forget_others(self, snapshot: GatewaySnapshot) -> None:
        """Drop what is remembered of replicas that no longer exist."""
        runs = {endpoint.run_id for route in snapshot.services for endpoint in route.endpoints}
        self._health = {run: health for run, health in self._health.items() if run in runs}
