"""One inference request from its arrival to its line in the log.

Key → body → model and its service → limits of the key → a place → replicas, or the fallback
service → what it cost. All refusals come before the first byte of an answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from quarterdeck.gateway import explain
from quarterdeck.gateway.access_log import Record
from quarterdeck.gateway.admission import Admission
from quarterdeck.gateway.arrival import Arrival
from quarterdeck.gateway.asgi import Send, read_body
from quarterdeck.gateway.bodies import BodyMemory, Held, dumps, loads, parsed_size, too_deep
from quarterdeck.gateway.call import Call
from quarterdeck.gateway.chains import STEP_FAILED, Chains
from quarterdeck.gateway.cycle import Cycle
from quarterdeck.gateway.directory import Directory
from quarterdeck.gateway.errors import ApiError, unavailable
from quarterdeck.gateway.limits import Limits, limited
from quarterdeck.gateway.metrics import GatewayMetrics
from quarterdeck.gateway.mirror import Mirror
from quarterdeck.gateway.proxy import Proxy
from quarterdeck.gateway.revisions import asked_revision
from quarterdeck.gateway.route_request import engine_model
from quarterdeck.gateway.settings import GatewaySettings
from quarterdeck.gateway.surface import guessed_tokens
from quarterdeck.gateway.tracing import Trace, trace_of
from quarterdeck.specs.common import PRIORITIES
from quarterdeck.specs.gateway_snapshot import KeyDigest, ServiceRoute

PRIORITY_HEADER = b"x-quarterdeck-priority"
_CANNOT = frozenset(
    {"no_ready_replica", "replica_unreachable", "too_many_waiting", "waited_too_long", "timeout",
     STEP_FAILED}
)  # fmt: skip
"""Errors after which the fallback service is asked."""


class Inference:
    """Answers inference requests. `newest` gives a service as it is now, `log` takes each
    request's record when it has ended."""

    def __init__(
        self,
        settings: GatewaySettings,
        proxy: Proxy,
        admission: Admission,
        limits: Limits,
        mirror: Mirror,
        metrics: GatewayMetrics,
        random: Random,
        newest: Callable[[ServiceRoute], ServiceRoute],
        log: Callable[[Record], None],
    ) -> None:
        self._settings = settings
        self._proxy = proxy
        self._admission = admission
        self._limits = limits
        self._mirror = mirror
        self._metrics = metrics
        self._random = random
        self._newest = newest
        self._log = log
        self._clock = asyncio.get_running_loop().time
        self._bodies = BodyMemory(settings.max_bodies)
        self._one_large = asyncio.Lock()
        self._chains = Chains(self._serve, proxy.overdue, metrics, self._bodies, self._one_large)
        self.in_flight = 0
        metrics.watch_in_flight(lambda: self.in_flight)

    async def answer(self, arrival: Arrival) -> None:
        """Answer one request. Raises ApiError while nothing was sent, ClientGone."""
        record = arrival.record
        try:
            key = arrival.directory.key_of(arrival.fields.get(b"authorization"))
            record.key = key.name
            if self.in_flight >= self._settings.max_in_flight:
                raise unavailable(
                    f"{self.in_flight} requests are under way, the most this gateway carries",
                    "gateway_overloaded",
                )
            self.in_flight += 1
            held = self._bodies.hold()
            try:
                await self._carry(arrival, key, held)
            finally:
                self.in_flight -= 1
                held.release()
        except ApiError as error:
            record.status, record.error = error.status, str(error)
            raise
        finally:
            record.seconds = self._clock() - arrival.began
            self._log(record)

    async def _carry(self, arrival: Arrival, key: KeyDigest, held: Held) -> None:
        client, record, settings = arrival.client, arrival.record, self._settings
        body = client.whole_body(settings.max_body)
        if body is None:
            body = await read_body(
                arrival.scope, arrival.receive, settings.max_body, settings.body_timeout,
                held.grow,
            )  # fmt: skip
        else:
            held.grow(len(body), complete=True)
        route, call = await self._understood(arrival, key, body, held)
        if not limited(key):
            work = self._serve(arrival.directory, route, call, client.send)
            record.status = await client.watch(work)
            return
        guessed = guessed_tokens(arrival.endpoint, call.asked, len(body))
        with self._limits.hold(key, guessed, record) as told:
            client.extra += told
            work = self._serve(arrival.directory, route, call, client.send)
            record.status = await client.watch(work)

    async def _understood(
        self, arrival: Arrival, key: KeyDigest, body: bytes, held: Held
    ) -> tuple[ServiceRoute, Call]:
        """Which service is asked, and what. Raises ApiError."""
        record, fields, scope = arrival.record, arrival.fields, arrival.scope
        record.bytes_in = len(body)
        held.grow(parsed_size(body), complete=True)
        parsed = await _parse(body, self._one_large)
        model = parsed.get("model")
        if not isinstance(model, str) or not model:
            raise ApiError(400, "model: is missing: name a model as text", param="model")
        record.model = model[:200]
        priority = fields.get(PRIORITY_HEADER)
        if priority is not None:
            record.priority = _priority(priority)
        route = arrival.directory.service_of(key, model, fields, self._random)
        record.project, record.service = route.project, route.name
        trace = self._trace(fields)
        record.trace_id = trace.trace_id
        record.stream = parsed.get("stream") is True
        name = engine_model(route, fields)
        return route, Call(
            path=arrival.endpoint.path,
            headers=scope["headers"],
            body=body if model == name else _renamed(parsed, name),
            stream=record.stream,
            record=record,
            began=arrival.began,
            asked=parsed,
            traceparent=trace.header,
            explain=explain.wanted(scope.get("query_string", b""), key),
            revision=asked_revision(fields, key),
            direct=arrival.client if isinstance(arrival.client, Cycle) else None,
        )

    def _trace(self, fields: Mapping[bytes, bytes]) -> Trace:
        return trace_of(fields.get(b"traceparent"), self._random)

    async def _serve(
        self, directory: Directory, route: ServiceRoute, call: Call, send: Send
    ) -> int:
        if route.mirror is not None:
            self._mirror.offer(directory, route, call)
        try:
            return await self._in_place(directory, route, call, send)
        except ApiError as error:
            other = directory.sibling(route, route.fallback) if route.fallback else None
            if other is None or error.code not in _CANNOT or (other.chain and call.inner):
                raise
            self._metrics.fallbacks.labels(route.project, route.name).inc()
            call.record.service, call.record.fallback = other.name, True
            # Whoever failed is of the other service: nobody of this one has it yet.
            call.record.replica, call.record.revision = "", 0
            name = engine_model(other, dict(call.headers))
            another = call.for_another(_renamed(call.asked, name))
            return await self._in_place(directory, other, another, send)

    async def _in_place(
        self, directory: Directory, route: ServiceRoute, call: Call, send: Send
    ) -> int:
        if route.chain:
            return await self._chains.serve(directory, route, call, send)
        room = self._admission.at_once(route)
        if room is None:
            record = call.record
            left = call.until - self._clock()
            room, waited = await self._admission.enter(route, record.priority, left)
            record.waited += waited
        try:
            # Its replicas may be others than when the request arrived, or its chain began.
            return await self._proxy.serve(self._newest(route), call, send)
        finally:
            self._admission.leave(room)


async def _parse(body: bytes, one_large: asyncio.Lock) -> dict[str, Any]:
    try:
        parsed = await loads(body, one_large)
    except UnicodeDecodeError as error:
        raise ApiError(
            400, f"the body is not UTF-8 at byte {error.start}: send JSON as UTF-8"
        ) from None
    except RecursionError:
        raise too_deep() from None
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise ApiError(400, "the body is not a JSON object")
    return parsed


def _renamed(parsed: Mapping[str, Any], name: str) -> bytes:
    """What names no model (a search) names none at another service either."""
    return dumps({**parsed, "model": name} if "model" in parsed else parsed)


def _priority(value: bytes) -> int:
    text = value.decode("latin-1")
    if text in PRIORITIES:
        return PRIORITIES[text]
    try:
        return max(-1000, min(int(text), 1000))
    except ValueError:
        name = PRIORITY_HEADER.decode()
        raise ApiError(
            400, f"{name}: {text[:50]!r} is not a priority: write low, normal, high or a number"
        ) from None
