"""Passing a stream on without a switch of tasks for each piece.

What a replica sends is parsed, counted and written to its client in the call that brought it; the
request's task sleeps until the end. A client that takes too little stops the reading from its
replica.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from quarterdeck.gateway.answer import Answer
from quarterdeck.gateway.asgi import ClientGone
from quarterdeck.gateway.cycle import Cycle
from quarterdeck.gateway.events import EventRelay, EventTooLarge
from quarterdeck.gateway.usage import LARGE, MOST_NEW, Usage


@dataclass(frozen=True, slots=True)
class Bounds:
    """`between` seconds are for the replica's next piece, `reader` for the client to take what
    waits; `deadline`, on the loop's clock, is the end of all."""

    between: float
    reader: float
    deadline: float


class Flow:
    """One answer's body from its second piece on; all pieces, if it has no events."""

    __slots__ = (
        "_answer", "_bounds", "_client", "_done", "_heard", "_new", "_now", "_paused", "_relay",
        "_usage", "_write",
    )  # fmt: skip

    def __init__(
        self, answer: Answer, client: Cycle, relay: EventRelay | None, usage: Usage, bounds: Bounds
    ) -> None:
        loop = asyncio.get_running_loop()
        self._answer = answer
        self._client = client
        self._relay = relay
        self._usage = usage
        self._new = usage.new
        self._write = client.write_after if client.chunked_encoding else None
        self._bounds = bounds
        self._now = loop.time
        self._heard = loop.time()
        """When the last piece was passed on, or the client went on taking."""
        self._paused: float | None = None
        """Since when the client takes nothing."""
        self._done: asyncio.Future[Exception | None] = loop.create_future()

    async def run(self) -> None:
        """Until the answer's end. Raises Broken, EventTooLarge, TimeoutError (the replica was
        silent for too long), ClientGone (the client takes nothing)."""
        client, answer = self._client, self._answer
        client.listener = self
        if client.flow.write_paused:
            self.paused()
        try:
            answer.pour(self)
            error = await self._done
        finally:
            client.listener = None
        if error is not None:
            raise error

    # --- from the replica's connection -------------------------------------------------------

    def take(self, piece: bytes) -> None:
        """Some of the body. What most often comes, one whole event, is dealt with in place: calls
        would cost half as much again."""
        relay = self._relay
        if relay is not None:
            if relay.held or piece[-2:] != b"\n\n":
                piece = self._whole_events(relay, piece)
                if not piece:
                    return
            else:
                relay.passed = piece
        self._heard = self._now()
        new = self._new
        new.append(piece)
        if len(new) > MOST_NEW or len(piece) > LARGE:
            self._usage.look()
        if self._write is not None:
            self._write(b"%x\r\n" % len(piece) + piece + b"\r\n")
        else:
            self._client.pour(piece)

    def _whole_events(self, relay: EventRelay, piece: bytes) -> bytes:
        try:
            return relay.push(piece)
        except EventTooLarge as error:
            self.ended(error)
            return b""

    def ended(self, error: Exception | None) -> None:
        """The body is complete, or never will be."""
        if not self._done.done():
            self._done.set_result(error)

    def due(self) -> float:
        """When it will have taken too long."""
        if self._paused is not None:
            return self._paused + self._bounds.reader
        return min(self._heard + self._bounds.between, self._bounds.deadline)

    def overdue(self) -> None:
        """It has."""
        if self._paused is not None:
            self.ended(ClientGone())
        else:
            self.ended(TimeoutError("the replica sent nothing in time"))

    # --- from the client's connection --------------------------------------------------------

    def gone(self) -> None:
        """The client has left; the request's task will hear of it."""
        self._write = None

    def paused(self) -> None:
        """The client takes no more for now."""
        self._paused = self._now()
        self._answer.pause()

    def resumed(self) -> None:
        """It does again."""
        self._paused = None
        self._heard = self._now()
        self._answer.resume()
        self._answer.look_again()
