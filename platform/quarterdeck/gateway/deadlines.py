"""uvicorn's HTTP protocol with bounds on connections, headers, and clients that do not read.

uvicorn waits for ever for the first request of a connection, for the rest of its headers and for
clients to take their answers, so a few thousand silent ones would hold every descriptor and all
that was written for them. The api's process uses this too.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol, cast
from urllib.parse import unquote

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import service_unavailable
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from quarterdeck.gateway.corked import Corked
from quarterdeck.gateway.cycle import EXTENSION, Cycle

_UPGRADE = re.compile(rb"\r\nupgrade:(?![ \t]*websocket[ \t]*\r\n)", re.IGNORECASE)
_LONGEST_URL = 512
"""Longer ones are not remembered."""
SLOWEST_BYTES = 64 * 2**10
Refusal = Callable[[int, str], tuple[str, bytes]]
"""From a status and a message to an answer's content type and body."""


class Bounds(Protocol):
    """What a server's settings say of connections (a count), headers (bytes), their time
    (seconds, from the connection or a request's first byte to the end of its headers) and
    `reader_timeout`, the seconds in which a client must take `SLOWEST_BYTES` of what waits."""

    @property
    def max_connections(self) -> int: ...
    @property
    def max_header(self) -> int: ...
    @property
    def header_timeout(self) -> float: ...
    @property
    def reader_timeout(self) -> float: ...


def openai_refusal(status: int, message: str) -> tuple[str, bytes]:
    """As the OpenAI API says errors."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    return "application/json", json.dumps({"error": error}).encode()


def protocol_for(settings: Bounds, refusal: Refusal = openai_refusal) -> type[HttpToolsProtocol]:
    """A protocol class with these bounds, for `uvicorn.Config(http=…)`; `refusal` words the
    answers to those that exceed them."""

    class Bounded(BoundedProtocol):
        bounds = settings
        refuse = staticmethod(refusal)

    return Bounded


class BoundedProtocol(HttpToolsProtocol):
    """See `protocol_for`."""

    bounds: Bounds
    refuse: Refusal

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        self._reader: asyncio.TimerHandle | None = None
        self._header_bytes = 0
        """Of headers, trailers and chunks' sizes, since the last byte of a body."""
        self._in_header = True
        self._begun = False
        """The first byte of a header is here and its last one is not."""
        self._answered_at: float | None = None
        """When the last answer ended; None while a request is under way."""
        self._running: Cycle | None = None
        """The cycle whose answer is being made; `cycle` may be of a request behind it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        corked = Corked(transport, self.loop, self.bounds.reader_timeout)
        super().connection_made(cast(asyncio.Transport, corked))
        if len(self.connections) > self.bounds.max_connections:
            transport.abort()
            return
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._forget_reader()
        super().connection_lost(exc)
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
        running, self._running = self._running, None
        if running is not None and not running.response_complete:
            running.disconnected = True
            running.message_event.set()
            if running.listener is not None:
                running.listener.gone()
            running.leave()

    def data_received(self, data: bytes) -> None:
        self._answered_at = None
        self._header_bytes += len(data)
        try:
            self.parser.feed_data(_without_upgrade(data) if self._in_header else data)
        except httptools.HttpParserUpgrade:
            if self._should_upgrade():
                self.handle_websocket_upgrade()
            else:
                self._unsupported_upgrade_warning()
        except httptools.HttpParserError:
            message = "Invalid HTTP request received."
            self.logger.warning(message)
            self.send_400_response(message)
            return
        # Of the piece that ends a header the body's part is not counted: only what is still open
        # beyond the bound is refused.
        if self._header_bytes > self.bounds.max_header:
            self._turn_away(431, f"the headers are larger than {self.bounds.max_header} bytes")
        elif self._begun:
            self._arm()

    def on_message_begin(self) -> None:
        self._begun = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """As uvicorn's, with cycles of our own."""
        self._in_header = self._begun = False
        self._header_bytes = 0
        self._disarm()
        parser, scope = self.parser, cast(dict[str, Any], self.scope)
        version = parser.get_http_version()
        scope["method"] = parser.get_method().decode("ascii")
        if version != "1.1":
            scope["http_version"] = version
        if parser.should_upgrade() and self._should_upgrade():
            return
        url = self.url
        path, raw_path, query = (_known_url if len(url) <= _LONGEST_URL else _parsed_url)(url)
        scope["path"] = self.root_path + path
        scope["raw_path"] = self.root_path.encode("ascii") + raw_path
        scope["query_string"] = query
        app = self.app
        most = self.limit_concurrency
        if most is not None and (len(self.connections) >= most or len(self.tasks) >= most):
            app = cast(ASGI3Application, service_unavailable)
            self.logger.warning("Exceeded concurrency limit.")
        before = self.cycle
        self.cycle = cycle = Cycle(self, version != "1.0" and parser.should_keep_alive())
        scope["extensions"] = {EXTENSION: cycle}
        if before is None or before.response_complete:
            self._start_asgi_task(cycle, app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, app))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = running = cast(Cycle, cycle)
        context = contextvars.Context() if self.config.reset_contextvars else None
        running.task = self.loop.create_task(running.run_asgi(app), context=context)
        running.task.add_done_callback(self.tasks.discard)
        self.tasks.add(running.task)

    def on_body(self, body: bytes) -> None:
        self._header_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        # The next request's first bytes count, whatever its parser has seen of them.
        self._header_bytes = 0
        self._in_header = True
        # A large last piece has stopped the reading, which nobody would start again before the
        # answer is complete: unread, a client's leaving would not be seen.
        self.flow.resume_reading()

    def on_response_complete(self) -> None:
        """As uvicorn's, with a timer that is not made and cancelled for each request."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._answered_at = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._look_again_after(self.timeout_keep_alive)

    def _unset_keepalive_if_required(self) -> None:
        self._answered_at = None

    def timeout_keep_alive_handler(self) -> None:
        self.timeout_keep_alive_task = None
        if self._answered_at is None:
            return  # the end of its answer starts the timer again
        left = self._answered_at + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._look_again_after(left)
            return
        if self.transport.get_write_buffer_size():  # of an answer that was never taken
            self.transport.abort()
        super().timeout_keep_alive_handler()

    def _look_again_after(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(
            seconds, self.timeout_keep_alive_handler
        )

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()
        if self._running is not None and self._running.listener is not None:
            self._running.listener.paused()

    def resume_writing(self) -> None:
        self._forget_reader()
        super().resume_writing()
        if self._running is not None and self._running.listener is not None:
            self._running.listener.resumed()

    def _watch_reader(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._reader = self.loop.call_later(self.bounds.reader_timeout, self._look_at_reader, left)

    def _look_at_reader(self, left: int) -> None:
        if self.transport.get_write_buffer_size() > left - SLOWEST_BYTES:
            self.transport.abort()
        else:
            self._watch_reader()

    def _forget_reader(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None

    def _arm(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.bounds.header_timeout, self._expired)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expired(self) -> None:
        self._deadline = None
        if self.cycle is not None and not self.cycle.response_complete:
            # Half of a next request behind one that is still being answered.
            self._arm()
            return
        seconds = self.bounds.header_timeout
        self._turn_away(408, f"the headers were not complete after {seconds:g} s")

    def _turn_away(self, status: int, message: str) -> None:
        self._disarm()
        if self.transport.is_closing():
            return
        cycle = self.cycle
        if (
            cycle is None
            or cycle.response_complete
            or (cycle.more_body and not cycle.response_started)
        ):
            media_type, body = self.refuse(status, message)
            head = (
                f"HTTP/1.1 {status} \r\ncontent-type: {media_type}\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.transport.close()


def _parsed_url(url: bytes) -> tuple[str, bytes, bytes]:
    """Path, path as it was sent, and query."""
    parts = httptools.parse_url(url)
    path = parts.path.decode("ascii")
    return (unquote(path) if "%" in path else path), parts.path, parts.query or b""


_known_url = lru_cache(maxsize=256)(_parsed_url)


def _without_upgrade(data: bytes) -> bytes:
    """A header that offers another protocol than HTTP/1.1, without the offer, which nobody must
    take up (RFC 9110, section 7.8): the parser would give the body up. Java's client and
    `curl --http2` ask so in a connection's first request. WebSockets, of which the api's tunnels
    are, have no body to lose."""
    end = data.find(b"\r\n\r\n")
    head = data if end < 0 else data[:end]
    if b"\r\nupgrade:" not in head.lower():
        return data
    offer = _UPGRADE.search(head)
    if offer is None:
        return data
    return b"\r\nx-offered:".join((data[: offer.start()], data[offer.end() :]))
