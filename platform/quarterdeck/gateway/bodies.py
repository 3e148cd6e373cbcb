"""The memory that request bodies take, bounded over all requests of a gateway.

A body is kept until its request has ended, for retries, and its parsed form for routing. Both
count: small pieces of JSON become Python objects of many times their size.
"""

from __future__ import annotations

import asyncio
import json
from types import TracebackType
from typing import Any

from quarterdeck.gateway.errors import ApiError, unavailable

_LARGE = 256 * 2**10
_OBJECT_BYTES = 64
"""About what an empty list, a float or a short text takes, with its place in a list."""


class BodyMemory:
    """Counts what is held; at most `most` bytes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.held = 0

    def hold(self) -> Held:
        """What one request holds, given back by `release` or when the context ends."""
        return Held(self)

    def take(self, size: int, *, close: bool) -> None:
        """Raises ApiError 503 where there is no room for so many bytes more."""
        if self.held + size > self._most:
            raise unavailable(
                f"the bodies of requests under way take all of this gateway's {self._most} bytes "
                "for them",
                "gateway_overloaded",
                close=close,
            )
        self.held += size


class Held:
    """See `BodyMemory.hold`."""

    __slots__ = ("_memory", "_size")

    def __init__(self, memory: BodyMemory) -> None:
        self._memory = memory
        self._size = 0

    def __enter__(self) -> Held:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def release(self) -> None:
        """Give it back."""
        self._memory.held -= self._size
        self._size = 0

    def grow(self, size: int, *, complete: bool = False) -> None:
        """Hold so many bytes more; raises ApiError 503, which ends the connection unless the
        body has come to its end: `complete`."""
        self._memory.take(size, close=not complete)
        self._size += size


def parsed_size(body: bytes) -> int:
    """About how many bytes a JSON text takes once it is parsed; rather more than less."""
    objects = body.count(b",") + body.count(b"[") + body.count(b"{")
    return len(body) + _OBJECT_BYTES * objects


async def loads(body: bytes, one_large: asyncio.Lock) -> Any:
    """The content of a JSON text. Raises ValueError, RecursionError."""
    if len(body) <= _LARGE:
        return _loads(body)
    # Many at once would take turns with the event loop, and leave it one turn in many.
    async with one_large:
        return await asyncio.to_thread(_loads, body)


def _loads(body: bytes) -> Any:
    text = body.decode()  # bytes might be taken for UTF-16, which no engine reads
    if text.startswith("{"):  # what `json.loads` adds to this costs as much again
        content, end = _decoder.raw_decode(text)
        if end == len(text):
            return content
    return json.loads(text)


_decoder = json.JSONDecoder()


def dumps(content: Any) -> bytes:
    """The JSON text of what was read from one. Raises ApiError 400."""
    try:
        return json.dumps(content).encode()
    except RecursionError:  # it was read with more stack left than here
        raise too_deep() from None


def too_deep() -> ApiError:
    """400: nested too deeply."""
    return ApiError(400, "the body is JSON that is nested too deeply")
