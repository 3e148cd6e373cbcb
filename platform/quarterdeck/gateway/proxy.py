"""One call to a service: choose a replica, try it, choose another one while nothing was sent."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import replace
from random import Random
from typing import Any

from quarterdeck.gateway import explain
from quarterdeck.gateway.asgi import Send
from quarterdeck.gateway.attempt import Attempt, Means
from quarterdeck.gateway.call import Call, Failure
from quarterdeck.gateway.errors import unavailable
from quarterdeck.gateway.fleet import Fleet
from quarterdeck.gateway.metrics import GatewayMetrics
from quarterdeck.gateway.route_request import route_request
from quarterdeck.gateway.settings import GatewaySettings
from quarterdeck.gateway.upstream import Upstream
from quarterdeck.routing.replicas import Refusal, ReplicaView, RouteRequest
from quarterdeck.routing.retries import ONCE, RetryBudget
from quarterdeck.routing.traffic import of_revision
from quarterdeck.specs.gateway_snapshot import ServiceRoute


class Proxy:
    """Sends requests to replicas. All randomness and counting is in its arguments."""

    def __init__(
        self,
        settings: GatewaySettings,
        upstream: Upstream,
        fleet: Fleet,
        metrics: GatewayMetrics,
        random: Random,
        budget: RetryBudget | None = None,
    ) -> None:
        self._means = Means(settings, upstream, fleet, metrics)
        self._fleet = fleet
        self._metrics = metrics
        self._random = random
        self._budget = budget or RetryBudget()

    async def serve(self, route: ServiceRoute, call: Call, send: Send) -> int:
        """Answer a call; the status sent. Raises ApiError while nothing was sent yet, ClientGone
        when the client takes nothing any more."""
        record, fleet = call.record, self._fleet
        request = route_request(route.routing, call.headers, call.asked)
        failure: Failure | None = None
        blamed = 0
        fleet.active += 1
        try:
            while True:
                replica = self._choose(route, request, call)
                if isinstance(replica, Refusal):
                    return await self._give_up(route, failure, replica, send)
                if request.tried:
                    self._metrics.retries.labels(route.project, route.name).inc()
                record.replica, record.revision = replica.run_id, replica.revision
                record.replicas.append(replica.run_id)
                record.tries += 1
                with fleet.flight(route, request, replica):
                    result = await self._try(route, replica, call, send)
                if isinstance(result, int):
                    return result
                failure = result
                blamed += failure.status in ONCE
                request = replace(request, tried=request.tried | {replica.run_id})
                if not self._budget.allows(
                    attempt=len(request.tried), active=fleet.active, retrying=fleet.retrying,
                    blamed=blamed, lost=failure.lost,
                ):  # fmt: skip
                    return await self._give_up(route, failure, None, send)
        finally:
            fleet.active -= 1

    def overdue(self, run_id: str) -> None:
        """Whoever asked gave up before this replica answered."""
        self._fleet.record(run_id, "server_error")

    def _choose(
        self, route: ServiceRoute, request: RouteRequest, call: Call
    ) -> ReplicaView | Refusal:
        policy, views = self._fleet.policy(route), self._fleet.views(route)
        if route.traffic or call.revision is not None:
            views = of_revision(request, views, route.traffic, self._random, call.revision)
        if not call.explain:
            return policy.choose(request, views, self._random)
        choice = policy.explain(request, views, self._random)
        call.record.explanation = explain.told(choice, len(request.tried) + 1)
        return choice.chosen

    def _try(
        self, route: ServiceRoute, replica: ReplicaView, call: Call, send: Send
    ) -> Coroutine[Any, Any, int | Failure]:
        """The status sent, or the failure before anything was sent."""
        return Attempt(self._means, route, replica, call, send).run()

    async def _give_up(
        self, route: ServiceRoute, failure: Failure | None, refusal: Refusal | None, send: Send
    ) -> int:
        if failure is None:
            reason = refusal.message if refusal else "no replica"
            raise unavailable(
                f"service {route.name!r} cannot answer now: {reason}", "no_ready_replica", 2
            )
        if failure.error is not None:
            raise failure.error
        await send(
            {
                "type": "http.response.start",
                "status": failure.status,
                "headers": failure.headers or [],
            }
        )
        await send({"type": "http.response.body", "body": failure.body, "more_body": False})
        return failure.status
