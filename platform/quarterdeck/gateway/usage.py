"""Counting tokens of answers that pass through, without parsing them.

An engine that reports `usage` is believed; of a stream without it the events are counted, which
is one token each for engines that stream token by token.
"""

from __future__ import annotations

import re

_TAIL = 4096
MOST_NEW = 64
LARGE = 512
"""Pieces are looked at in bunches: so many, or when one has more bytes."""
_PROMPT = re.compile(rb'"(?:prompt|input)_tokens"\s*:\s*(\d+)')
_CACHED = re.compile(rb'"cached_tokens"\s*:\s*(\d+)')
_ANSWER = re.compile(rb'"(?:completion|output)_tokens"\s*:\s*(\d+)')


class Usage:
    """Fed with every piece of one answer, in order; of a stream pieces are whole events."""

    __slots__ = ("_events", "_stream", "_tail", "new")

    def __init__(self, *, stream: bool) -> None:
        self._stream = stream
        self._tail = b""
        self._events = 0
        self.new: list[bytes] = []
        """Passed on and not looked at yet."""

    def push(self, piece: bytes) -> None:
        """Bytes that were passed on."""
        self.new.append(piece)
        if len(self.new) > MOST_NEW or len(piece) > LARGE:
            self.look()

    def look(self) -> None:
        """Count what is new."""
        new = b"".join(self.new)
        self.new.clear()
        if self._stream:
            self._events += new.count(b"data: {")
        self._tail = new[-_TAIL:] if len(new) >= _TAIL else (self._tail + new)[-_TAIL:]

    def tokens(self) -> tuple[int, int]:
        """Tokens of the prompt (0: not told) and of the answer."""
        self.look()
        prompt, answer = _last(_PROMPT, self._tail), _last(_ANSWER, self._tail)
        if answer is None:
            answer = self._events
        return prompt or 0, answer

    def cached(self) -> int | None:
        """Tokens of the prompt that the engine had in its cache; None: not told."""
        self.look()
        return _last(_CACHED, self._tail) if b'"cached_tokens"' in self._tail else None


def _last(pattern: re.Pattern[bytes], text: bytes) -> int | None:
    found = pattern.findall(text)
    return int(found[-1][:12]) if found else None
