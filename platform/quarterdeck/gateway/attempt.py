"""One try of a call on one replica: pass its answer on, or say why another one may be asked;
end a stream well-formed when the replica breaks off."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from quarterdeck.gateway import explain
from quarterdeck.gateway.answer import Answer
from quarterdeck.gateway.asgi import ClientGone, Headers, Send
from quarterdeck.gateway.call import Call, Failure
from quarterdeck.gateway.cycle import Cycle
from quarterdeck.gateway.errors import ApiError, timed_out, unavailable
from quarterdeck.gateway.events import EventRelay, EventTooLarge
from quarterdeck.gateway.fleet import Fleet
from quarterdeck.gateway.flow import Bounds, Flow
from quarterdeck.gateway.metrics import GatewayMetrics
from quarterdeck.gateway.settings import GatewaySettings
from quarterdeck.gateway.upstream import Upstream
from quarterdeck.gateway.usage import Tokens, Usage, tokens_of
from quarterdeck.routing.replicas import ReplicaView
from quarterdeck.routing.retries import RETRYABLE_STATUSES
from quarterdeck.specs.gateway_snapshot import ServiceRoute

REPLICA_HEADER = b"x-quarterdeck-replica"
_LARGEST_REFUSAL = 2**20
_WHOLE_BYTES = 2**20
"""Answers that do not stream are sent on when they are whole, or beyond so many bytes."""
# Ours to set, or meaningless beyond one connection (RFC 9110, section 7.6.1).
_DROPPED_FROM_ANSWERS = frozenset(
    b"connection keep-alive proxy-authenticate te trailer transfer-encoding upgrade date server "
    b"x-request-id x-quarterdeck-replica".split()
)
# An allow list: neither keys nor cookies of clients reach the engines.
_PASSED_TO_REPLICAS = frozenset((b"content-type", b"accept", b"user-agent", b"tracestate"))
_Broken = (OSError, EventTooLarge)


@dataclass(frozen=True, slots=True)
class Means:
    """What all tries share."""

    settings: GatewaySettings
    upstream: Upstream
    fleet: Fleet
    metrics: GatewayMetrics


class Attempt:
    """One try. `send` gets the answer where the call has no direct way to its client."""

    __slots__ = (
        "_answer", "_call", "_deadline", "_loop", "_means", "_relay", "_replica", "_route", "_send",
        "_usage",
    )  # fmt: skip

    def __init__(
        self, means: Means, route: ServiceRoute, replica: ReplicaView, call: Call, send: Send
    ) -> None:
        self._means = means
        self._route = route
        self._replica = replica
        self._call = call
        self._send = send
        self._loop = means.upstream.loop
        total = min(means.settings.total_timeout, route.total)
        self._deadline = min(call.until, call.began + total)
        self._relay: EventRelay | None = None

    async def run(self) -> int | Failure:
        """The status sent, or the failure before anything was sent. Raises ApiError when there is
        no time for another try, ClientGone when the client takes nothing any more."""
        call, means, loop = self._call, self._means, self._loop
        sent, until = loop.time(), self._deadline
        if call.stream:
            patience = min(means.settings.first_byte_timeout, self._route.per_try)
            until = min(until, sent + patience)
        answer: Answer | None = None
        try:
            answer = self._answer = await means.upstream.post(
                self._replica.url, call.path, _headers_for_replica(call), call.body, until
            )
            if answer.status in RETRYABLE_STATUSES:
                return await self._refused(until)
            # While nothing is sent another replica can still answer.
            piece = await self._first(until)
            if piece is None:
                return self._unreachable()
        except TimeoutError:
            means.fleet.first_byte(self._replica.run_id, loop.time() - sent)
            means.fleet.record(self._replica.run_id, "server_error")
            failure = timed_out(f"the replica sent nothing for {loop.time() - call.began:.0f} s")
            if loop.time() >= self._deadline:
                raise failure from None
            return Failure(failure)
        except _Broken:
            return self._unreachable()
        else:
            now = loop.time()
            call.record.first_byte = now - call.began
            means.fleet.first_byte(self._replica.run_id, now - sent)
            await self._pass_on(piece)
            return answer.status
        finally:
            if answer is not None:
                answer.close()

    # --- before the first byte ---------------------------------------------------------------

    async def _first(self, until: float) -> bytes | None:
        """What is sent first: whole events, or all of an answer that is not too long. None: the
        answer ended without an event."""
        answer = self._answer
        if answer.content_type.lower().startswith(b"text/event-stream"):
            self._relay = EventRelay()
            while piece := await answer.read(until):
                if whole := self._relay.push(piece):
                    return whole
            return None
        if answer.complete:
            return answer.taken()
        pieces, size = [], 0
        while size < _WHOLE_BYTES and (piece := await answer.read(self._next(until))):
            pieces.append(piece)
            size += len(piece)
        return b"".join(pieces)

    async def _refused(self, until: float) -> Failure:
        answer, run_id = self._answer, self._replica.run_id
        body = bytearray()
        while len(body) <= _LARGEST_REFUSAL and (piece := await answer.read(until)):
            body += piece
        overloaded = answer.status == 429
        if overloaded:
            self._call.record.overloaded = (*self._call.record.overloaded, run_id)
        self._means.fleet.record(run_id, "answered" if overloaded else "server_error")
        return Failure(None, answer.status, self._headers(), bytes(body))

    def _unreachable(self) -> Failure:
        self._means.fleet.record(self._replica.run_id, "unreachable")
        return Failure(
            unavailable(
                f"a replica of service {self._route.name!r} broke off before it answered",
                "replica_unreachable",
                2,
            ),
            lost=True,
        )

    # --- from the first byte on --------------------------------------------------------------

    async def _pass_on(self, piece: bytes) -> None:
        """Send the answer. Raises ClientGone."""
        if self._relay is None and self._answer.read_whole:
            self._ended_well()
            self._note(tokens_of(piece))
            await self._whole(piece)
            return
        usage = self._usage = Usage(stream=self._relay is not None)
        usage.push(piece)
        try:
            broken = await self._rest(piece)
        finally:
            self._note(usage.tokens())
        if broken:
            await self._broken_off(broken)
        else:
            self._ended_well()
            await self._last(b"")

    def _note(self, tokens: Tokens) -> None:
        record = self._call.record
        record.tokens_in, record.tokens_out = tokens.prompt, tokens.answer
        record.tokens_cached = tokens.cached

    async def _whole(self, body: bytes) -> None:
        direct, status, headers = self._call.direct, self._answer.status, self._headers()
        if direct is not None:
            if direct.flow.write_paused:  # by an answer before this one
                await direct.flow.drain()
            direct.answer(status, headers, body)
            return
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def _rest(self, piece: bytes) -> str:
        """Pass pieces on until the end, from this first one on; why it broke off, if it did."""
        direct = self._call.direct
        try:
            if direct is not None:
                await self._flow(direct, piece)
            else:
                await self._turns(piece)
        except TimeoutError:
            return "the replica stopped sending: the answer took too long"
        except _Broken:
            return "the replica broke off in the middle of the answer"
        if self._relay is not None and not self._relay.complete:
            return "the replica ended the answer without its last event"
        return ""

    def _between(self) -> float:
        return min(self._means.settings.between_timeout, self._route.between_tokens)

    def _next(self, until: float) -> float:
        """When the next piece must be there."""
        return min(self._loop.time() + self._between(), until)

    async def _flow(self, direct: Cycle, piece: bytes) -> None:
        if direct.flow.write_paused:
            await direct.flow.drain()
        direct.begin(self._answer.status, self._headers(), piece)
        reader = self._means.settings.between_timeout
        bounds = Bounds(self._between(), reader, self._deadline)
        await Flow(self._answer, direct, self._relay, self._usage, bounds).run()

    async def _turns(self, piece: bytes) -> None:
        """As `_flow`, where somebody in between sees each piece."""
        status, headers = self._answer.status, self._headers()
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        while piece:
            await self._body(piece, more=True)
            until = self._next(self._deadline)
            while piece := await self._answer.read(until):
                if self._relay is None or (piece := self._relay.push(piece)):
                    self._usage.push(piece)
                    break

    async def _broken_off(self, why: str) -> None:
        replica, record = self._replica, self._call.record
        record.error = why
        self._means.metrics.broken.labels(
            self._route.project, self._route.name, str(record.revision or ""), replica.run_id
        ).inc()
        self._means.fleet.record(replica.run_id, "unreachable")
        # The length promised by a whole answer is not reached: the server cuts the connection, as
        # it must.
        if self._relay is not None:
            error = ApiError(502, why, code="stream_broken", type_="server_error")
            await self._last(error.event())

    def _ended_well(self) -> None:
        failed = self._answer.status >= 500
        self._means.fleet.record(self._replica.run_id, "server_error" if failed else "answered")

    async def _last(self, body: bytes) -> None:
        if self._call.direct is not None:
            self._call.direct.finish(body)
        else:
            await self._body(body, more=False)

    async def _body(self, body: bytes, *, more: bool) -> None:
        try:
            async with asyncio.timeout(self._means.settings.between_timeout):
                await self._send({"type": "http.response.body", "body": body, "more_body": more})
        except TimeoutError:
            raise ClientGone from None

    def _headers(self) -> Headers:
        headers = [each for each in self._answer.headers if each[0] not in _DROPPED_FROM_ANSWERS]
        headers.append((REPLICA_HEADER, self._replica.run_id.encode("latin-1")))
        if self._call.record.explanation:
            headers.append((explain.HEADER, self._call.record.explanation))
        return headers


def _headers_for_replica(call: Call) -> Headers:
    passed = [(name, value) for name, value in call.headers if name in _PASSED_TO_REPLICAS]
    # Events must be seen as they are, so answers may not be compressed.
    passed.append((b"accept-encoding", b"identity"))
    passed.append((b"x-request-id", call.record.request_id.encode()))
    if call.traceparent:
        passed.append((b"traceparent", call.traceparent.encode()))
    return passed
