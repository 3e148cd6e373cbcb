"""Streams over one tunnel, each with a window: a slow reader holds up nobody else.

Both ends of a tunnel use this: the user's command and the process beside the rank. The connection
comes in as two coroutines, so nothing here knows the network.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

from quarterdeck.client.frames import (
    LARGEST_DATA,
    WINDOW,
    BadFrame,
    Frame,
    Kind,
    credit,
    decode,
    structured,
)

MOST_STREAMS = 256
_CONTROLS = 64


class TunnelClosed(Exception):
    """The connection is gone; the message says why."""


class Stream:
    """One stream: bytes both ways, controls, and an outcome."""

    def __init__(self, mux: Mux, number: int, wanted: dict[str, Any]) -> None:
        self.number = number
        self.wanted = wanted
        """What the side that opened it asked for."""
        self.outcome: dict[str, Any] | None = None
        """Set once the other side closed it."""
        self.controls: deque[dict[str, Any]] = deque(maxlen=_CONTROLS)
        self.on_control: Callable[[dict[str, Any]], None] = self.controls.append
        self.mux = mux
        self._received: deque[bytes] = deque()
        self._waiting = 0
        """Bytes received and not read."""
        self._ended = False
        self._credit = WINDOW
        self._changed = asyncio.Event()
        self._closed = False

    async def read(self) -> bytes:
        """The next bytes, b"" at the end. Raises TunnelClosed."""
        while not self._received:
            if self._ended or self.outcome is not None:
                return b""
            await self._wait()
        data = self._received.popleft()
        self._waiting -= len(data)
        if not (self._ended or self._closed or self.outcome is not None):
            await self.mux.send(credit(self.number, len(data)))
        return data

    async def write(self, data: bytes) -> None:
        """Send, waiting for the reader's window. What a closed stream gets is dropped.

        Raises TunnelClosed.
        """
        view = memoryview(data)
        while view:
            while self._credit == 0 and self.outcome is None and not self._closed:
                await self._wait()
            if self.outcome is not None or self._closed:
                return
            part = view[: min(LARGEST_DATA, self._credit)]
            self._credit -= len(part)
            await self.mux.send(Frame(Kind.DATA, self.number, bytes(part)))
            view = view[len(part) :]

    async def end(self) -> None:
        """Say that no more data comes."""
        if not self._closed and self.outcome is None:
            await self.mux.send(Frame(Kind.EOF, self.number))

    async def control(self, **content: Any) -> None:
        """Say something beside the data."""
        if not self._closed and self.outcome is None:
            await self.mux.send(structured(Kind.CONTROL, self.number, content))

    async def close(self, **outcome: Any) -> None:
        """End the stream with its outcome."""
        if self._closed:
            return
        self._closed = True
        self._changed.set()
        if self.outcome is None:
            await self.mux.send(structured(Kind.CLOSE, self.number, outcome))
        self.mux.forget(self)

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry bytes between this stream and a TCP connection, each way until its own end."""

        async def inwards() -> None:
            with suppress(OSError):
                while data := await self.read():
                    writer.write(data)
                    await writer.drain()
                if writer.can_write_eof():
                    writer.write_eof()

        async def outwards() -> None:
            with suppress(OSError):
                while data := await reader.read(LARGEST_DATA):
                    await self.write(data)
            await self.end()

        await asyncio.gather(inwards(), outwards())

    async def closed(self) -> dict[str, Any]:
        """Wait for the other side's outcome. Raises TunnelClosed."""
        while self.outcome is None:
            await self._wait()
        return self.outcome

    async def _wait(self) -> None:
        self.mux.check()
        self._changed.clear()
        await self._changed.wait()
        self.mux.check()

    # --- called by the multiplexer ---------------------------------------------------------

    def take(self, frame: Frame) -> None:
        """One frame of this stream. Raises BadFrame."""
        if frame.kind is Kind.DATA:
            self._waiting += len(frame.payload)
            if self._waiting > WINDOW:
                raise BadFrame(f"stream {self.number} got more than its window")
            if frame.payload and not self._closed:
                self._received.append(frame.payload)
        elif frame.kind is Kind.EOF:
            self._ended = True
        elif frame.kind is Kind.CREDIT:
            self._credit = min(WINDOW, self._credit + frame.amount())
        elif frame.kind is Kind.CONTROL:
            self.on_control(frame.content())
        elif frame.kind is Kind.CLOSE:
            self.outcome = frame.content()
        self._changed.set()

    def wake(self) -> None:
        """The connection is gone."""
        self._changed.set()


class Mux:
    """The streams of one connection. `first` is 1 for the user's side, 2 for the rank's.

    `serve` must run all the while; it hands streams that the other side opens to `accept`.
    """

    def __init__(
        self,
        send: Callable[[bytes], Awaitable[None]],
        first: int,
        accept: Callable[[Stream], None] | None = None,
    ) -> None:
        self._transmit = send
        self._next = first
        self._accept = accept
        self._streams: dict[int, Stream] = {}
        self._gone: str | None = None
        self._over = asyncio.Event()

    async def open(self, **wanted: Any) -> Stream:
        """A new stream. Raises TunnelClosed, and ValueError when `wanted` is too large."""
        stream = Stream(self, self._next, wanted)
        frame = structured(Kind.OPEN, stream.number, wanted)
        self._next += 2
        self._streams[stream.number] = stream
        await self.send(frame)
        return stream

    async def serve(self, messages: AsyncIterator[bytes | str]) -> None:
        """Take in messages until the connection ends; then every stream is over.

        Raises BadFrame for a side that does not keep to the form.
        """
        why = "the connection ended"
        try:
            async for message in messages:
                if isinstance(message, str):
                    raise BadFrame("a text message")
                self._take(decode(message))
        except BadFrame as error:
            why = f"the other side said something unreadable: {error}"
            raise
        finally:
            self.end(why)

    def end(self, why: str) -> None:
        """Nothing comes any more: wake all who wait."""
        if self._gone is None:
            self._gone = why
            self._over.set()
        for stream in list(self._streams.values()):
            stream.wake()

    async def over(self) -> str:
        """Wait until the connection is gone; answers why."""
        await self._over.wait()
        assert self._gone is not None
        return self._gone

    def check(self) -> None:
        """Raise TunnelClosed when the connection is gone."""
        if self._gone is not None:
            raise TunnelClosed(self._gone)

    async def send(self, frame: Frame) -> None:
        """Send a frame. Raises TunnelClosed."""
        self.check()
        await self._transmit(frame.encode())

    def forget(self, stream: Stream) -> None:
        """The stream is over on this side."""
        if stream.outcome is not None:
            self._streams.pop(stream.number, None)

    def _take(self, frame: Frame) -> None:
        if frame.kind is Kind.OPEN:
            self._take_open(frame)
            return
        stream = self._streams.get(frame.stream)
        if stream is None:
            return  # closed here while this was on its way
        stream.take(frame)
        if frame.kind is Kind.CLOSE and stream._closed:
            self._streams.pop(stream.number, None)

    def _take_open(self, frame: Frame) -> None:
        if self._accept is None or frame.stream % 2 == self._next % 2:
            raise BadFrame(f"stream {frame.stream} cannot be opened from there")
        if frame.stream in self._streams or len(self._streams) >= MOST_STREAMS:
            raise BadFrame(f"{len(self._streams)} streams are open")
        stream = Stream(self, frame.stream, frame.content())
        self._streams[frame.stream] = stream
        self._accept(stream)
