"""One inference request: choose a replica, pass the answer on, try another one before the first
byte, end a stream well-formed when its replica breaks off."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from quarterdeck.gateway import explain
from quarterdeck.gateway.access_log import Record
from quarterdeck.gateway.asgi import ClientGone, Headers, Send
from quarterdeck.gateway.errors import ApiError, timed_out, unavailable
from quarterdeck.gateway.events import EventRelay, EventTooLarge
from quarterdeck.gateway.fleet import Fleet
from quarterdeck.gateway.metrics import GatewayMetrics
from quarterdeck.gateway.patience import Patience
from quarterdeck.gateway.route_request import route_request
from quarterdeck.gateway.settings import GatewaySettings
from quarterdeck.gateway.upstream import Answer, Upstream
from quarterdeck.gateway.usage import Usage
from quarterdeck.routing.replicas import Refusal, ReplicaView, RouteRequest
from quarterdeck.routing.retries import RETRYABLE_STATUSES, RetryBudget
from quarterdeck.routing.traffic import of_revision
from quarterdeck.specs.gateway_snapshot import ServiceRoute

REPLICA_HEADER = b"x-quarterdeck-replica"
_LARGEST_REFUSAL = 2**20
_WHOLE_BYTES = 2**20
"""Answers that do not stream are sent on when they are whole, or beyond so many bytes."""
_NEVER = float("inf")
# Ours to set, or meaningless beyond one connection (RFC 9110, section 7.6.1).
_DROPPED_FROM_ANSWERS = frozenset(
    b"connection keep-alive proxy-authenticate te trailer transfer-encoding upgrade date server "
    b"x-request-id x-quarterdeck-replica".split()
)
# An allow list: neither keys nor cookies of clients reach the engines.
_PASSED_TO_REPLICAS = frozenset((b"content-type", b"accept", b"user-agent", b"tracestate"))
_Broken = (OSError, EventTooLarge)


@dataclass(frozen=True)
class Call:
    """What is passed on. `stream` is what the client asked for; `began` is on the loop's clock;
    `record` is told what becomes of it; `asked` is the body as routing reads it."""

    path: str
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes
    stream: bool
    record: Record
    began: float
    traceparent: str = ""
    asked: Mapping[str, Any] = field(default_factory=dict)
    explain: bool = False
    revision: int | None = None
    """The revision that an operator wants."""
    until: float = _NEVER
    """When it is given up at the latest, on the loop's clock."""
    inner: bool = False
    """A chain asks: what stands in for the service may not be a chain again."""

    def for_another(self, body: bytes) -> Call:
        """The same call to another service, which has other revisions."""
        return replace(self, body=body, revision=None)


@dataclass(frozen=True)
class Failure:
    """A try that ended before its first byte: an error of ours, or the replica's own answer."""

    error: ApiError | None = None
    status: int = 0
    headers: Headers | None = None
    body: bytes = b""


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
        self._settings = settings
        self._upstream = upstream
        self._fleet = fleet
        self._metrics = metrics
        self._random = random
        self._budget = budget or RetryBudget()

    async def serve(self, route: ServiceRoute, call: Call, send: Send) -> int:
        """Answer a call; the status sent. Raises ApiError while nothing was sent yet, ClientGone
        when the client takes nothing any more."""
        tried: set[str] = set()
        failure: Failure | None = None
        untried = route_request(route.routing, call.headers, call.asked)
        with self._fleet.request():
            while True:
                request = replace(untried, tried=frozenset(tried)) if tried else untried
                replica = self._choose(route, request, call, len(tried) + 1)
                if isinstance(replica, Refusal):
                    return await self._give_up(route, failure, replica, send)
                if tried:
                    self._metrics.retries.labels(route.project, route.name).inc()
                tried.add(replica.run_id)
                call.record.replica, call.record.revision = replica.run_id, replica.revision
                call.record.replicas.append(replica.run_id)
                call.record.tries += 1
                with self._fleet.flight(route, request, replica):
                    result = await self._try(route, replica, call, send)
                if isinstance(result, int):
                    return result
                failure = result
                if not self._budget.allows(
                    attempt=len(tried), active=self._fleet.active,
                    retrying=self._fleet.retrying, status=failure.status,
                ):  # fmt: skip
                    return await self._give_up(route, failure, None, send)

    def _choose(
        self, route: ServiceRoute, request: RouteRequest, call: Call, attempt: int
    ) -> ReplicaView | Refusal:
        policy, views = self._fleet.policy(route), self._fleet.views(route)
        views = of_revision(request, views, route.traffic, self._random, call.revision)
        if not call.explain:
            return policy.choose(request, views, self._random)
        choice = policy.explain(request, views, self._random)
        call.record.explanation = explain.told(choice, attempt)
        return choice.chosen

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
        await self._send_start(send, failure.status, failure.headers or [])
        await self._send_body(send, failure.body, more=False)
        return failure.status

    async def _try(
        self, route: ServiceRoute, replica: ReplicaView, call: Call, send: Send
    ) -> int | Failure:
        """The status sent, or the failure before anything was sent."""
        loop = asyncio.get_running_loop()
        deadline = min(call.until, call.began + min(self._settings.total_timeout, route.total))
        first = deadline
        if call.stream:
            patience = min(self._settings.first_byte_timeout, route.per_try)
            first = min(deadline, loop.time() + patience)
        answer: Answer | None = None
        sent = loop.time()
        try:
            answer = await self._upstream.post(
                replica.url, call.path, _headers_for_replica(call), call.body, first
            )
            if answer.status in RETRYABLE_STATUSES:
                return await self._refusal(replica, call, answer, first)
            relay = EventRelay() if _is_event_stream(answer) else None
            piece = await _next(answer, relay, first)
            while relay is None and not answer.read_whole and len(piece) < _WHOLE_BYTES:
                # While nothing is sent another replica can still answer.
                more = await answer.read(first)
                if not more:
                    break
                piece += more
        except TimeoutError:
            self._fleet.first_byte(replica.run_id, loop.time() - sent)
            self._fleet.record(replica.run_id, "server_error")
            failure = timed_out(f"the replica sent nothing for {loop.time() - call.began:.0f} s")
            if loop.time() >= deadline:
                raise failure from None
            return Failure(failure)
        except _Broken:
            return self._unreachable(route, replica)
        else:
            if relay is not None and not piece:
                return self._unreachable(route, replica)
            call.record.first_byte = loop.time() - call.began
            self._fleet.first_byte(replica.run_id, loop.time() - sent)
            usage = Usage(stream=relay is not None)
            try:
                await self._pass_on(
                    route, replica, call, answer, relay, usage, piece, deadline, send
                )
            finally:
                call.record.tokens_in, call.record.tokens_out = usage.tokens()
                call.record.tokens_cached = usage.cached()
            return answer.status
        finally:
            if answer is not None:
                answer.close()

    def overdue(self, run_id: str) -> None:
        """Whoever asked gave up before this replica answered."""
        self._fleet.record(run_id, "server_error")

    def _unreachable(self, route: ServiceRoute, replica: ReplicaView) -> Failure:
        self._fleet.record(replica.run_id, "unreachable")
        return Failure(
            unavailable(
                f"a replica of service {route.name!r} broke off before it answered",
                "replica_unreachable",
                2,
            )
        )

    async def _refusal(
        self, replica: ReplicaView, call: Call, answer: Answer, until: float
    ) -> Failure:
        body = bytearray()
        while len(body) <= _LARGEST_REFUSAL and (piece := await answer.read(until)):
            body += piece
        overloaded = answer.status == 429
        if overloaded:
            call.record.overloaded.append(replica.run_id)
        self._fleet.record(replica.run_id, "answered" if overloaded else "server_error")
        headers = _headers_of(answer, replica)
        return Failure(None, answer.status, headers, bytes(body))

    async def _pass_on(
        self,
        route: ServiceRoute,
        replica: ReplicaView,
        call: Call,
        answer: Answer,
        relay: EventRelay | None,
        usage: Usage,
        piece: bytes,
        deadline: float,
        send: Send,
    ) -> None:
        headers = _headers_of(answer, replica)
        if call.record.explanation:
            headers.append((explain.HEADER, call.record.explanation))
        await self._send_start(send, answer.status, headers)
        if relay is None and answer.read_whole:
            usage.push(piece)
            self._fleet.record(
                replica.run_id, "server_error" if answer.status >= 500 else "answered"
            )
            await send({"type": "http.response.body", "body": piece})
            return
        broken = ""
        waiting = Patience()
        try:
            broken = await self._relay(route, answer, relay, usage, piece, deadline, send, waiting)
        finally:
            waiting.end()
        if broken:
            call.record.error = broken
            self._metrics.broken.labels(
                route.project, route.name, str(call.record.revision or ""), replica.run_id
            ).inc()
            self._fleet.record(replica.run_id, "unreachable")
            if relay is None:
                # The length promised is not reached: uvicorn cuts the connection, as it must.
                return
            error = ApiError(502, broken, code="stream_broken", type_="server_error")
            await self._send_body(send, error.event(), more=False)
            return
        self._fleet.record(replica.run_id, "server_error" if answer.status >= 500 else "answered")
        await self._send_body(send, b"", more=False)

    async def _relay(
        self,
        route: ServiceRoute,
        answer: Answer,
        relay: EventRelay | None,
        usage: Usage,
        piece: bytes,
        deadline: float,
        send: Send,
        waiting: Patience,
    ) -> str:
        """Pass pieces on until the end; why it broke off, if it did. Raises ClientGone when the
        client takes nothing for too long."""
        loop = asyncio.get_running_loop()
        between = min(self._settings.between_timeout, route.between_tokens)
        try:
            while piece:
                usage.push(piece)
                waiting.due = loop.time() + self._settings.between_timeout
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                waiting.due = _NEVER
                piece = await _next(answer, relay, min(loop.time() + between, deadline))
        except TimeoutError:
            return "the replica stopped sending: the answer took too long"
        except _Broken:
            return "the replica broke off in the middle of the answer"
        except asyncio.CancelledError:
            if waiting.absorb():
                raise ClientGone from None
            raise
        if relay is not None and not relay.complete:
            return "the replica ended the answer without its last event"
        return ""

    async def _send_start(self, send: Send, status: int, headers: Headers) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers})

    async def _send_body(self, send: Send, body: bytes, *, more: bool) -> None:
        try:
            async with asyncio.timeout(self._settings.between_timeout):
                await send({"type": "http.response.body", "body": body, "more_body": more})
        except TimeoutError:
            raise ClientGone from None


async def _next(answer: Answer, relay: EventRelay | None, until: float) -> bytes:
    """The next bytes to pass on; empty at the end."""
    while True:
        piece = await answer.read(until)
        if relay is None or not piece:
            return piece
        whole = relay.push(piece)
        if whole:
            return whole


def _is_event_stream(answer: Answer) -> bool:
    return any(
        name == b"content-type" and value.lower().startswith(b"text/event-stream")
        for name, value in answer.headers
    )


def _headers_for_replica(call: Call) -> Headers:
    passed = [(name, value) for name, value in call.headers if name in _PASSED_TO_REPLICAS]
    # Events must be seen as they are, so answers may not be compressed.
    passed.append((b"accept-encoding", b"identity"))
    passed.append((b"x-request-id", call.record.request_id.encode()))
    if call.traceparent:
        passed.append((b"traceparent", call.traceparent.encode()))
    return passed


def _headers_of(answer: Answer, replica: ReplicaView) -> Headers:
    headers = [each for each in answer.headers if each[0] not in _DROPPED_FROM_ANSWERS]
    headers.append((REPLICA_HEADER, replica.run_id.encode("latin-1")))
    return headers
