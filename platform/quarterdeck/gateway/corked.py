"""A transport that writes once for all that is written in one turn of the event loop.

uvicorn writes an answer's head and its body apart; each write is a system call that wakes the
client, which costs more than everything else that is done for a short answer.

A transport that is closed waits for ever for its client to take the rest; this one aborts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any


class Corked:
    """Behaves as the transport it wraps, which gets everything in the order of the calls."""

    __slots__ = ("_loop", "_patience", "_pieces", "_transport", "is_closing", "write_after")

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, patience: float
    ) -> None:
        """`patience` is how many seconds a closed connection has for what was written before."""
        self._transport = transport
        self._loop = loop
        self._patience = patience
        self._pieces: list[bytes] = []
        self.is_closing = transport.is_closing
        self.write_after = transport.write
        """Write at once; for who knows that nothing else is being held: after `write_now`."""

    def write(self, data: bytes) -> None:
        """Write before the next turn of the loop."""
        if not self._pieces:
            self._loop.call_soon(self._flush)
        self._pieces.append(data)

    def write_now(self, data: bytes) -> None:
        """Write what was written before, and this."""
        if self._pieces:
            self._pieces.append(data)
            self._flush()
        else:
            self._transport.write(data)

    def writelines(self, pieces: Iterable[bytes]) -> None:
        """Write one after the other."""
        self.write(b"".join(pieces))

    def write_eof(self) -> None:
        """End the writing side after all that was written."""
        self._flush()
        self._transport.write_eof()

    def close(self) -> None:
        """Close after all that was written, or when the client does not take it in time."""
        self._flush()
        self._transport.close()
        if self._transport.get_write_buffer_size():
            self._loop.call_later(self._patience, self._transport.abort)

    def abort(self) -> None:
        """Close at once."""
        self._pieces.clear()
        self._transport.abort()

    def _flush(self) -> None:
        pieces = self._pieces
        if not pieces:
            return
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
