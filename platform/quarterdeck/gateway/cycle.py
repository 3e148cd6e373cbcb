"""uvicorn's side of one request, with ways to answer that switch no task and build no messages.

`begin`, `pour`, `finish` and `answer` write at once whatever the client takes; who pours must heed
`listener`, which hears when the client takes no more. ASGI's `send` goes uvicorn's way.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol, cast

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from quarterdeck.gateway.asgi import Headers
from quarterdeck.gateway.corked import Corked
from quarterdeck.gateway.leaving import Watched

if TYPE_CHECKING:
    from quarterdeck.gateway.deadlines import BoundedProtocol

EXTENSION = "quarterdeck.client"
"""Where a request's scope has its cycle."""


class Listener(Protocol):
    """Who pours."""

    def paused(self) -> None:
        """The client takes no more for now."""

    def resumed(self) -> None:
        """It does again."""

    def gone(self) -> None:
        """The client has left."""


class News:
    """As asyncio.Event, of which nearly nobody waits for the first one."""

    __slots__ = ("_is_set", "_waiters")

    def __init__(self) -> None:
        self._is_set = False
        self._waiters: list[asyncio.Future[None]] | None = None

    def set(self) -> None:
        self._is_set = True
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    def clear(self) -> None:
        self._is_set = False

    async def wait(self) -> None:
        if not self._is_set:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters = [*(self._waiters or ()), waiter]
            await waiter


class Cycle(Watched, RequestResponseCycle):
    """One request and its answer."""

    def __init__(self, protocol: BoundedProtocol, keep_alive: bool) -> None:
        RequestResponseCycle.__init__(
            self, protocol.scope, protocol.transport, protocol.flow, protocol.logger,
            protocol.access_logger, protocol.access_log, protocol.server_state.default_headers,
            cast(asyncio.Event, News()), protocol.expect_100_continue, keep_alive,
            protocol.on_response_complete,
        )  # fmt: skip
        self.extra: Headers = []
        """Headers that go out with the answer's own."""
        self.listener: Listener | None = None
        corked = cast(Corked, protocol.transport)
        self._write_now, self.write_after = corked.write_now, corked.write_after

    def whole_body(self, most: int) -> bytes | None:
        """The request's body, if all of it is here and no more than `most` bytes; then it is not
        to be received any more."""
        if (
            self.more_body
            or self.disconnected
            or self.waiting_for_100_continue
            or len(self.body) > most
        ):
            return None
        body, self.body = bytes(self.body), bytearray()
        return body

    async def run_asgi(self, app: ASGI3Application) -> None:
        """As uvicorn's; a client's leaving is no error."""

        async def until_left(scope: Any, receive: Any, send: Any) -> None:
            try:
                await app(scope, receive, send)
            except asyncio.CancelledError:
                if not self.absorbed():
                    raise

        try:
            await super().run_asgi(cast(ASGI3Application, until_left))
        finally:
            self.on_response = _nothing
            self.task = None
            # Cycles of references would wait for the collector.
            cast(dict[str, Any], self.scope)["extensions"] = None

    # --- the answer --------------------------------------------------------------------------

    async def send(self, message: Any) -> None:
        """ASGI's, as uvicorn's."""
        if self.extra and message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *self.extra]}
        await super().send(message)

    def begin(self, status: int, headers: Headers, body: bytes) -> None:
        """The answer's head and the first of its body, to a POST. Names are in lower case, neither
        names nor values have what HTTP forbids, and how the body is framed is said here alone."""
        if not self.disconnected:
            self._write_now(self._head(status, headers) + self._framed(body))

    def pour(self, body: bytes) -> None:
        """More of a body that `begin` began."""
        if self.disconnected:
            return
        if self.chunked_encoding and body:
            self.write_after(b"%x\r\n" % len(body) + body + b"\r\n")
        else:
            self.write_after(self._framed(body))

    def finish(self, body: bytes = b"") -> None:
        """The last of the body."""
        if not self.disconnected:
            self._write_now(self._last(body))
            self._end()

    def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole answer; see `begin`."""
        if not self.disconnected:
            self._write_now(self._head(status, headers) + self._last(body))
            self._end()

    def _head(self, status: int, headers: Headers) -> bytes:
        self.response_started = True
        self.waiting_for_100_continue = False
        chunked = status not in (204, 304)
        lines = [STATUS_LINE[status]]
        for name, value in (*self.default_headers, *headers, *self.extra):
            if name == b"content-length":
                self.expected_content_length, chunked = int(value), False
            lines += (name, b": ", value, b"\r\n")
        self.chunked_encoding = chunked
        if chunked:
            lines.append(b"transfer-encoding: chunked\r\n")
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        lines.append(b"\r\n")
        return b"".join(lines)

    def _framed(self, body: bytes) -> bytes:
        if self.chunked_encoding:
            return b"%x\r\n%b\r\n" % (len(body), body) if body else b""
        self.expected_content_length -= len(body)
        if self.expected_content_length < 0:
            raise RuntimeError("an answer is longer than its head says")
        return body

    def _last(self, body: bytes) -> bytes:
        framed = self._framed(body)
        return framed + b"0\r\n\r\n" if self.chunked_encoding else framed

    def _end(self) -> None:
        if self.expected_content_length != 0:
            raise RuntimeError("an answer is shorter than its head says")
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


def _nothing() -> None:
    return
