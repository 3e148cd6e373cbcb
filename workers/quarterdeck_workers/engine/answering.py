"""Answering one request from an engine: counted, whole or as a stream, given up with its client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable
from typing import Any, Protocol, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from quarterdeck_workers.engine.api_errors import ApiError, failed, refused
from quarterdeck_workers.engine.host import EngineHost
from quarterdeck_workers.engine.interface import (
    Embedder,
    Engine,
    EngineError,
    SequenceRequest,
    TokenEvent,
)

_Result = TypeVar("_Result")
CLIENT_LEFT = 499


class Writer(Protocol):
    """Writes what sequences generate in the shapes of one surface."""

    @property
    def complete(self) -> bool:
        """Every sequence has ended."""

    def add(self, event: TokenEvent) -> Iterable[bytes]:
        """Take an event in; what a stream sends for it."""

    def closing(self) -> Iterable[bytes]:
        """What ends a stream."""

    def broken(self, error: ApiError) -> Iterable[bytes]:
        """What ends a stream that fails."""

    def whole(self) -> dict[str, Any]:
        """The answer of a request that does not stream."""


class Flight:
    """Counts a request while it is answered; ending it twice is harmless."""

    def __init__(self, host: EngineHost) -> None:
        self._host = host
        self._ended = False
        self.completed = False
        host.in_flight += 1
        host.metrics.in_flight.inc()

    def end(self) -> None:
        """The request is over."""
        if self._ended:
            return
        self._ended = True
        self._host.in_flight -= 1
        self._host.metrics.in_flight.dec()
        self._host.metrics.requests.labels("completed" if self.completed else "failed").inc()


async def answer(
    host: EngineHost,
    request: Request,
    engine: Engine,
    sequences: list[SequenceRequest],
    writer: Writer,
    *,
    stream: bool,
) -> Response:
    """Generate the sequences and answer. Raises ApiError where the engine takes nothing more."""
    queue: asyncio.Queue[TokenEvent] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def sink(event: TokenEvent) -> None:
        loop.call_soon_threadsafe(queue.put_nowait, event)

    try:
        ticket = engine.submit(sequences, sink)
    except EngineError as error:
        host.metrics.requests.labels("refused").inc()
        raise refused(error) from error
    flight = Flight(host)
    if stream:
        return _EventStream(_events(flight, queue, writer), flight, ticket.cancel)
    try:
        await _until_gone(request, _collect(queue, writer))
    except ClientDisconnect:
        return Response(status_code=CLIENT_LEFT)
    else:
        flight.completed = True
        return JSONResponse(writer.whole())
    finally:
        flight.end()
        if not flight.completed:
            ticket.cancel()


async def embed(
    host: EngineHost, request: Request, engine: Embedder, prompts: list[tuple[int, ...]]
) -> list[list[float]] | None:
    """A vector for each prompt; None when the client has left. Raises ApiError."""
    try:
        future = engine.embed(prompts)
    except EngineError as error:
        host.metrics.requests.labels("refused").inc()
        raise refused(error) from error
    flight = Flight(host)
    try:
        vectors = await _until_gone(request, asyncio.wrap_future(future))
    except ClientDisconnect:
        return None
    except EngineError as error:
        raise refused(error) from error
    except Exception as error:
        raise ApiError(
            500, f"{type(error).__name__}: {error}", type_="server_error", code="embedding_failed"
        ) from error
    else:
        flight.completed = True
        return vectors
    finally:
        flight.end()
        future.cancel()


async def _collect(queue: asyncio.Queue[TokenEvent], writer: Writer) -> None:
    while not writer.complete:
        event = await queue.get()
        if event.finish_reason in ("error", "cancelled"):
            raise failed(event)
        writer.add(event)


async def _events(
    flight: Flight, queue: asyncio.Queue[TokenEvent], writer: Writer
) -> AsyncIterator[bytes]:
    while not writer.complete:
        event = await queue.get()
        if event.finish_reason in ("error", "cancelled"):
            for chunk in writer.broken(failed(event)):
                yield chunk
            return
        for chunk in writer.add(event):
            yield chunk
    flight.completed = True
    for chunk in writer.closing():
        yield chunk


class _EventStream(StreamingResponse):
    """Ends its flight however the response ends, even when the client left before its start."""

    def __init__(self, chunks: AsyncIterator[bytes], flight: Flight, cancel: Any) -> None:
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(chunks, media_type="text/event-stream", headers=headers)
        self._flight = flight
        self._cancel = cancel

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._flight.end()
            if not self._flight.completed:
                self._cancel()


async def _until_gone(request: Request, work: Awaitable[_Result]) -> _Result:
    """Wait for `work`; raises ClientDisconnect as soon as the client has left."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(request.receive())
    try:
        while True:
            await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            if leaving.result()["type"] == "http.disconnect":
                raise ClientDisconnect
            leaving = asyncio.ensure_future(request.receive())
    finally:
        working.cancel()
        leaving.cancel()
