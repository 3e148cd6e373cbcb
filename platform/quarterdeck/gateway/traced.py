"""The gateway's parts that write spans, used instead of the plain ones where tracing is wanted:
without it a request pays nothing.

One SERVER span for each inference request; below it an INTERNAL one for each wait for a place and
each step of a chain, and a CLIENT one for each try, which is the parent of the replica's own.
Attributes follow the semantic conventions for HTTP and for generative AI
(https://opentelemetry.io/docs/specs/semconv/); what they have no name for is `quarterdeck.*`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from opentelemetry import context as contexts
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    TraceFlags,
    Tracer,
    get_current_span,
    set_span_in_context,
)

from quarterdeck.gateway.access_log import Record
from quarterdeck.gateway.admission import Admission
from quarterdeck.gateway.arrival import Arrival
from quarterdeck.gateway.asgi import Scope, Send
from quarterdeck.gateway.call import Call, Failure
from quarterdeck.gateway.directory import Directory
from quarterdeck.gateway.inference import Inference
from quarterdeck.gateway.proxy import Proxy
from quarterdeck.gateway.spans import LEFT, failed, spanned, traceparent
from quarterdeck.gateway.tracing import Trace, trace_of
from quarterdeck.routing.admission import Ticket, WaitingRoom
from quarterdeck.routing.replicas import ReplicaView
from quarterdeck.specs.gateway_snapshot import ServiceRoute

_OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}
_CLIENT_LEFT = 499


class TracedInference(Inference):
    """With a span for each request and for each step of a chain."""

    def __init__(self, tracer: Tracer, *parts: Any) -> None:
        super().__init__(*parts)
        self._tracer = tracer
        log = self._log

        def told(record: Record) -> None:
            span = get_current_span()
            if span.is_recording():
                _describe(span, record)
            log(record)

        self._log = told

    async def answer(self, arrival: Arrival) -> None:
        path, scope = arrival.endpoint.path, arrival.scope
        span = self._tracer.start_span(
            f"POST {path}",
            context=self._parent(scope),
            kind=SpanKind.SERVER,
            attributes={
                "http.request.method": "POST",
                "http.route": path,
                "url.path": path,
                "url.scheme": scope.get("scheme", "http"),
                "network.protocol.version": scope.get("http_version", "1.1"),
            },
        )
        token = contexts.attach(set_span_in_context(span))
        try:
            await super().answer(arrival)
        finally:
            contexts.detach(token)
            span.end()

    def _parent(self, scope: Scope) -> contexts.Context:
        """The client's span, where it sent one."""
        given = next((value for name, value in scope["headers"] if name == b"traceparent"), None)
        trace = trace_of(given, self._random)
        if not trace.parent_id:
            return contexts.Context()
        remote = SpanContext(
            int(trace.trace_id, 16),
            int(trace.parent_id, 16),
            True,
            TraceFlags(int(trace.flags, 16)),
        )
        return set_span_in_context(NonRecordingSpan(remote), contexts.Context())

    def _trace(self, fields: Mapping[bytes, bytes]) -> Trace:
        own = get_current_span().get_span_context()
        return Trace(f"{own.trace_id:032x}", f"{own.span_id:016x}", "", f"{own.trace_flags:02x}")

    async def _serve(
        self, directory: Directory, route: ServiceRoute, call: Call, send: Send
    ) -> int:
        if not call.inner:
            return await super()._serve(directory, route, call, send)
        named = {"quarterdeck.service": route.name}
        with spanned(self._tracer, "chain step", SpanKind.INTERNAL, named):
            return await super()._serve(directory, route, call, send)


class TracedAdmission(Admission):
    """With a span for each request that waits for a place."""

    def __init__(self, tracer: Tracer, *parts: Any) -> None:
        super().__init__(*parts)
        self._tracer = tracer

    async def _wait(
        self, room: WaitingRoom, ticket: Ticket, route: ServiceRoute, longest: float
    ) -> None:
        named: dict[str, str | int] = {
            "quarterdeck.service": route.name,
            "quarterdeck.waiting": room.waiting,
        }
        with spanned(self._tracer, "wait for a place", SpanKind.INTERNAL, named):
            await super()._wait(room, ticket, route, longest)


class TracedProxy(Proxy):
    """With a span for each try, under which the replica's own belong."""

    def __init__(self, tracer: Tracer, *parts: Any) -> None:
        super().__init__(*parts)
        self._tracer = tracer

    async def _try(
        self, route: ServiceRoute, replica: ReplicaView, call: Call, send: Send
    ) -> int | Failure:
        if not call.traceparent:  # a copy for shadow traffic: nobody waits for it
            return await super()._try(route, replica, call, send)
        place = urlsplit(replica.url)
        attributes: dict[str, str | int] = {
            "http.request.method": "POST",
            "url.path": call.path,
            "server.address": place.hostname or "",
            "server.port": place.port or 80,
            "quarterdeck.service": route.name,
            "quarterdeck.replica": replica.run_id,
            "quarterdeck.revision": replica.revision,
        }
        if call.record.tries > 1:
            attributes["http.request.resend_count"] = call.record.tries - 1
        with spanned(self._tracer, f"POST {call.path}", SpanKind.CLIENT, attributes) as span:
            asked = replace(call, traceparent=traceparent(span.get_span_context()))
            result = await super()._try(route, replica, asked, send)
            _judge(span, result, call.record)
        return result


def _judge(span: Span, result: int | Failure, record: Record) -> None:
    """The end of a try."""
    status = result if isinstance(result, int) else result.status
    if status:
        span.set_attribute("http.response.status_code", status)
    if isinstance(result, int) and record.error and status < 400:
        failed(span, "stream_broken", record.error)
    elif status >= 400:
        failed(span, str(status), "")
    elif not isinstance(result, int) and result.error is not None:
        failed(span, result.error.code or str(result.error.status), str(result.error))


def _describe(span: Span, record: Record) -> None:
    """What the whole request was."""
    told: dict[str, str | int | float | bool | None] = {
        "http.response.status_code": None if record.status == _CLIENT_LEFT else record.status,
        "gen_ai.operation.name": _OPERATIONS.get(record.path),
        "gen_ai.provider.name": "quarterdeck",
        "gen_ai.request.model": record.model,
        "gen_ai.request.stream": record.stream or None,
        "gen_ai.usage.input_tokens": record.tokens_in,
        "gen_ai.usage.output_tokens": record.tokens_out,
        "gen_ai.usage.cache_read.input_tokens": record.tokens_cached,
        "gen_ai.response.time_to_first_chunk": record.first_byte if record.stream else None,
        "quarterdeck.request_id": record.request_id,
        "quarterdeck.key": record.key,
        "quarterdeck.project": record.project,
        "quarterdeck.service": record.service,
        "quarterdeck.revision": record.revision,
        "quarterdeck.replica": record.replica,
        "quarterdeck.tries": record.tries,
        "quarterdeck.fallback": record.fallback or None,
        "quarterdeck.waited": record.waited,
    }
    span.set_attributes(
        {name: value for name, value in told.items() if value is not None and value != ""}
    )
    if record.status == _CLIENT_LEFT:
        span.set_attribute("error.type", LEFT)
    elif record.status >= 500:
        failed(span, str(record.status), record.error)
    elif record.status >= 400:  # the client's own fault, as the conventions see it
        span.set_attribute("error.type", str(record.status))
    elif record.error:
        failed(span, "stream_broken", record.error)
