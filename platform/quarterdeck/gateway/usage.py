"""Counting tokens of answers that pass through, without parsing them.

An engine that reports `usage` is believed; of a stream without it the events are counted, which
is one token each for engines that stream token by token.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_TAIL = 4096
MOST_NEW = 64
LARGE = 512
"""Pieces are looked at in bunches: so many, or when one has more bytes."""
_TOLD = re.compile(rb'"(prompt|input|completion|output|cached)_tokens"\s*:\s*(\d+)')
_LONGEST_NAME = 11


class Tokens(NamedTuple):
    """Of the prompt (0: not told), of the answer, and those of the prompt that the engine had in
    its cache (None: not told)."""

    prompt: int = 0
    answer: int = 0
    cached: int | None = None


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

    def tokens(self) -> Tokens:
        """What is known by now."""
        self.look()
        told = _told(self._tail)
        answer = told.get(b"completion", self._events)
        return Tokens(told.get(b"prompt", 0), answer, told.get(b"cached"))


def tokens_of(answer: bytes) -> Tokens:
    """What a whole answer tells."""
    told = _told(answer[-_TAIL:])
    return Tokens(told.get(b"prompt", 0), told.get(b"completion", 0), told.get(b"cached"))


def _told(text: bytes) -> dict[bytes, int]:
    """The last number of each kind."""
    start = text.find(b'_tokens"')
    if start < 0:
        return {}
    told: dict[bytes, int] = {}
    for kind, number in _TOLD.findall(text, max(0, start - _LONGEST_NAME)):
        told[_KIND[kind]] = int(number[:12])
    return told


_KIND = {
    b"prompt": b"prompt", b"input": b"prompt", b"completion": b"completion",
    b"output": b"completion", b"cached": b"cached",
}  # fmt: skip
