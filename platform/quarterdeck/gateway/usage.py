"""Counting tokens of answers that pass through, without parsing them.

An engine that reports `usage` is believed; of a stream without it the events are counted, which
is one token each for engines that stream token by token.
"""

from __future__ import annotations

import re

_TAIL = 4096
_PROMPT = re.compile(rb'"(?:prompt|input)_tokens"\s*:\s*(\d+)')
_CACHED = re.compile(rb'"cached_tokens"\s*:\s*(\d+)')
_ANSWER = re.compile(rb'"(?:completion|output)_tokens"\s*:\s*(\d+)')


class Usage:
    """Fed with every piece of one answer, in order; of a stream pieces are whole events."""

    __slots__ = ("_events", "_new", "_size", "_stream", "_tail")

    def __init__(self, *, stream: bool) -> None:
        self._stream = stream
        self._tail = b""
        self._events = 0
        self._new: list[bytes] = []
        self._size = 0

    def push(self, piece: bytes) -> None:
        """Bytes that were passed on."""
        self._new.append(piece)
        self._size += len(piece)
        if self._size > _TAIL:
            self._fold()

    def _fold(self) -> None:
        new = b"".join(self._new)
        self._new.clear()
        self._size = 0
        if self._stream:
            self._events += new.count(b"data: {")
        self._tail = new[-_TAIL:] if len(new) >= _TAIL else (self._tail + new)[-_TAIL:]

    def tokens(self) -> tuple[int, int]:
        """Tokens of the prompt (0: not told) and of the answer."""
        self._fold()
        prompt, answer = _last(_PROMPT, self._tail), _last(_ANSWER, self._tail)
        if answer is None:
            answer = self._events
        return prompt or 0, answer

    def cached(self) -> int | None:
        """Tokens of the prompt that the engine had in its cache; None: not told."""
        self._fold()
        return _last(_CACHED, self._tail) if b'"cached_tokens"' in self._tail else None


def _last(pattern: re.Pattern[bytes], text: bytes) -> int | None:
    found = pattern.findall(text)
    return int(found[-1][:12]) if found else None
