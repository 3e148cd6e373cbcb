"""One connection to a replica, and the answer that comes over it.

httptools parses; nothing is copied twice; one timer for each connection looks at its deadline now
and then. Who must see each piece reads them; a sink gets them as they come.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import httptools

from quarterdeck.gateway.asgi import Headers

_HIGH_WATER = 256 * 2**10
_LARGEST_HEAD = 64 * 2**10
_NEVER = float("inf")
_TICK = 0.5
"""Deadlines are looked at this often, in seconds."""

Address = tuple[str, str, int]


class Broken(ConnectionError):
    """The replica cannot be reached, broke off, or answered what is no HTTP."""


class Sink(Protocol):
    """Who takes a body as it comes, without waiting for its pieces."""

    def take(self, piece: bytes) -> None:
        """Some of the body."""

    def ended(self, error: Exception | None) -> None:
        """The body is complete, or never will be."""

    def due(self) -> float:
        """When it will have taken too long, on the loop's clock."""

    def overdue(self) -> None:
        """It has."""


class Pool(Protocol):
    """Keeps connections between two requests."""

    def keep(self, address: Address, answer: Answer) -> bool:
        """Take a connection back; False when there are enough."""

    def forget(self, address: Address, answer: Answer) -> None:
        """A connection is gone."""


class Answer(asyncio.Protocol):
    """One connection, and the answer that comes over it now.

    `status` and `headers` (names in lower case) are there once `Upstream.post` returned.
    """

    def __init__(
        self, pool: Pool, address: Address, loop: asyncio.AbstractEventLoop, head_timeout: float
    ) -> None:
        self._pool = pool
        self._address = address
        self._loop = loop
        self._head_timeout = head_timeout
        self._timer: asyncio.TimerHandle | None = None
        self.idle_since = 0.0
        self._closed: Broken | None = None
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append
        """The parser calls it: nothing of Python runs for a piece."""
        self._parser = httptools.HttpResponseParser(self)
        self._feed = self._parser.feed_data
        self._reset()

    def _reset(self) -> None:
        self._pieces.clear()
        self._held = 0
        self._paused = False
        self._head_bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._sink: Sink | None = None
        self._due = _NEVER
        self._error: Exception | None = None
        self._bounded = False
        self._keeps = False
        self.untouched = True
        """Not a byte of an answer has come."""
        self.has_head = False
        self.complete = False
        self.status = 0
        self.headers: Headers = []
        self.content_type = b""

    # --- from the connection -------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if self.complete:  # more than was asked for: whatever it is, it answers no request
            self._transport.abort()
            return
        error: Broken | None = None
        try:
            self._feed(data)
        except httptools.HttpParserError as wrong:
            error = Broken(f"the answer is no HTTP: {wrong}")
        sink, pieces = self._sink, self._pieces
        if sink is None:
            self._keep(len(data))
        elif pieces:
            piece = pieces.pop()
            if pieces:
                piece = b"".join((*pieces, piece))
                pieces.clear()
            sink.take(piece)
        if error is not None:
            self._fail(error)
        elif sink is not None and self.complete:
            self._end_sink(None)

    def _keep(self, size: int) -> None:
        first, self.untouched = self.untouched, False
        if not self.has_head:
            if first and not self.status:  # with one it is a 100 Continue, and the answer may wait
                self._due = min(self._due, self._loop.time() + self._head_timeout)
            # Counted after parsing: a head that is complete may have much of a body behind it.
            self._head_bytes += size
            if self._head_bytes > _LARGEST_HEAD:
                self._fail(Broken(f"the answer's head is larger than {_LARGEST_HEAD} bytes"))
        self._held += size
        if self._held > _HIGH_WATER:
            self.pause()
        self._wake()

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"content-length" or name == b"transfer-encoding":
            self._bounded = True
        elif name == b"content-type":
            self.content_type = value
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        if self.status >= 200:
            self.has_head = True

    def on_message_complete(self) -> None:
        if self.status < 200:  # 100 Continue and the like: the answer itself follows
            self.headers = []
            self.content_type = b""
            self._bounded = False
        else:
            self.complete = True
            self._keeps = bool(self._parser.should_keep_alive())

    def eof_received(self) -> bool:
        if self.has_head and not self._bounded:
            self.complete = True
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._closed = Broken(str(error) if error else "the connection was closed")
        if self.has_head and not self._bounded and error is None:
            self.complete = True
        elif not self.complete:
            self._error = self._error or self._closed
        self._stop_timer()
        self._wake()
        self._end_sink(self._error)
        self._pool.forget(self._address, self)

    # --- for the proxy -------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        """Another request may be sent over it."""
        return self._closed is None and not self._transport.is_closing()

    @property
    def read_whole(self) -> bool:
        """It has come to its end, and everything of it was read."""
        return self.complete and not self._pieces

    def ask(self, request: bytes, until: float) -> None:
        """Send a request, whose answer's head must come until that moment of the loop's clock."""
        self._reset()
        self._due = until
        if self._timer is None:
            self._timer = self._loop.call_later(_TICK, self._look)
        self._transport.write(request)

    def news(self) -> asyncio.Future[None]:
        """Done when something has come. Raises Broken, TimeoutError where nothing will."""
        if self._error is not None:
            raise self._error
        self._waiter = waiter = self._loop.create_future()
        return waiter

    async def read(self, until: float) -> bytes:
        """What has come of the body; waits for something, empty at its end. Raises Broken,
        TimeoutError."""
        while not self._pieces:
            if self.complete:
                return b""
            self._due = until
            await self.news()
        return self.taken()

    def taken(self) -> bytes:
        """What has come of the body."""
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._held = 0
        self.resume()
        return data

    def pour(self, sink: Sink) -> None:
        """Give the rest of the body to `sink`, which hears of its end."""
        if self._pieces:
            sink.take(self.taken())
        if self.complete or self._error is not None:
            sink.ended(None if self.complete else self._error)
            return
        self._sink = sink
        self.look_again()

    def pause(self) -> None:
        """Read no more for now."""
        if not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._paused:
            self._paused = False
            if self._closed is None:
                self._transport.resume_reading()

    def look_again(self) -> None:
        """The sink is due earlier than it was."""
        self._stop_timer()
        self._look()

    def close(self) -> None:
        """Done with the answer: the connection is kept if it was read to its end, else closed,
        which makes the engine stop."""
        if self._sink is not None:
            self._end_sink(None)
        self._due = _NEVER
        reusable = self.complete and self._keeps and not self._pieces and self.usable
        self.resume()
        if not reusable or not self._pool.keep(self._address, self):
            self._transport.abort()

    def close_now(self) -> None:
        """Done with the connection."""
        self._transport.abort()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def _fail(self, error: Exception) -> None:
        self._error = error
        self._transport.abort()
        self._wake()
        self._end_sink(error)

    def _end_sink(self, error: Exception | None) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            self._stop_timer()  # the next request may be due earlier
            sink.ended(error)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        """Look at the deadline. The timer goes on from one request to the next, and ends where
        none has come."""
        self._timer = None
        now, sink = self._loop.time(), self._sink
        if sink is not None:
            left = sink.due() - now
            if left <= 0:
                sink.overdue()
                return
        elif self._due == _NEVER:
            return
        elif self._waiter is None:
            left = _TICK
        else:
            left = min(self._due - now, _TICK)
            if left <= 0:
                self._error = TimeoutError("the replica sent nothing in time")
                self._wake()
                return
        self._timer = self._loop.call_later(left, self._look)
