"""uvicorn's side of one request, with ways to answer that switch no task and build no messages.

`begin`, `pour` and `finish` write at once whatever the client takes; who pours must heed
`listener`, which hears when the client takes no more. ASGI's `send` is made of them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol, cast

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import (
    HEADER_RE,
    HEADER_VALUE_RE,
    STATUS_LINE,
    RequestResponseCycle,
)
from uvicorn.protocols.utils import get_client_addr, get_path_with_query_string

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
        try:
            result = await app(self.scope, self.receive, self.send)  # type: ignore[func-returns-value]
        except asyncio.CancelledError as error:
            if not self.absorbed():
                await self._failed(error)
        except BaseException as error:
            await self._failed(error)
        else:
            if (self.response_complete and result is None) or self.disconnected:
                return
            if result is not None:
                what = f"should return None, but returned '{result}'."
            elif not self.response_started:
                what = "returned without starting response."
            else:
                what = "returned without completing response."
            self.logger.error("ASGI callable %s", what)
            if self.response_started:
                self.transport.close()
            else:
                await self.send_500_response()
        finally:
            self.on_response = _nothing
            self.task = None
            # Cycles of references would wait for the collector.
            cast(dict[str, Any], self.scope)["extensions"] = None

    async def _failed(self, error: BaseException) -> None:
        self.logger.error("Exception in ASGI application\n", exc_info=error)
        if self.response_started:
            self.transport.close()
        else:
            await self.send_500_response()

    # --- the answer --------------------------------------------------------------------------

    async def send(self, message: Any) -> None:
        """ASGI's, as uvicorn's."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        kind = message["type"]
        if self.disconnected:
            return
        if not self.response_started:
            if kind != "http.response.start":
                raise RuntimeError(
                    f"Expected ASGI message 'http.response.start', but got {kind!r}."
                )
            headers = list(message.get("headers", ()))
            for name, value in headers:
                if HEADER_RE.search(name):
                    raise RuntimeError("Invalid HTTP header name.")
                if HEADER_VALUE_RE.search(value):
                    raise RuntimeError("Invalid HTTP header value.")
            self.transport.write(self._head(message["status"], headers))
        elif self.response_complete:
            raise RuntimeError(
                f"Unexpected ASGI message {kind!r} sent, after response already completed."
            )
        elif kind != "http.response.body":
            raise RuntimeError(f"Expected ASGI message 'http.response.body', but got {kind!r}.")
        elif message.get("more_body", False):
            self.transport.write(self._framed(message.get("body", b"")))
        else:
            self.transport.write(self._last(message.get("body", b"")))
            self._end()

    def begin(self, status: int, headers: Headers, body: bytes) -> None:
        """The answer's head and the first of its body; names are in lower case, and neither
        names nor values have what HTTP forbids."""
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
        if self.access_log:
            self._log_access(status)
        closes = False
        lines = [STATUS_LINE[status]]
        for given, value in (*self.default_headers, *headers, *self.extra):
            name = given.lower()
            if name == b"content-length":
                if self.chunked_encoding is None:
                    self.expected_content_length = int(value)
                    self.chunked_encoding = False
            elif name == b"transfer-encoding":
                if value.lower() == b"chunked":
                    self.expected_content_length = 0
                    self.chunked_encoding = True
            elif name == b"connection" and _says_close(value):
                self.keep_alive = False
                closes = True
            lines += (name, b": ", value, b"\r\n")
        if not self.keep_alive and not closes:
            lines.append(b"connection: close\r\n")
        if (
            self.chunked_encoding is None
            and status not in (204, 304)
            and self.scope["method"] != "HEAD"
        ):
            self.chunked_encoding = True
            lines.append(b"transfer-encoding: chunked\r\n")
        lines.append(b"\r\n")
        return b"".join(lines)

    def _log_access(self, status: int) -> None:
        self.access_logger.info(
            '%s - "%s %s HTTP/%s" %d', get_client_addr(self.scope), self.scope["method"],
            get_path_with_query_string(self.scope), self.scope["http_version"], status,
        )  # fmt: skip

    def _framed(self, body: bytes) -> bytes:
        if self.scope["method"] == "HEAD":
            self.expected_content_length = 0
            return b""
        if self.chunked_encoding:
            return b"%x\r\n%b\r\n" % (len(body), body) if body else b""
        if len(body) > self.expected_content_length:
            raise RuntimeError("Response content longer than Content-Length")
        self.expected_content_length -= len(body)
        return body

    def _last(self, body: bytes) -> bytes:
        framed = self._framed(body)
        if self.chunked_encoding and self.scope["method"] != "HEAD":
            framed += b"0\r\n\r\n"
        return framed

    def _end(self) -> None:
        if self.expected_content_length != 0:
            raise RuntimeError("Response content shorter than Content-Length")
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


def _nothing() -> None:
    return


def _says_close(connection: bytes) -> bool:
    return b"close" in [token.lower().strip() for token in connection.split(b",")]
