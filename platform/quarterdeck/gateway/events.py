"""Passing server-sent events on, byte for byte, in whole events.

The end of an event that has not arrived whole is held back, so that a stream whose replica dies
can still be closed by a well-formed error event.
"""

from __future__ import annotations

_LARGEST_EVENT = 4 * 2**20
_LAST_WORDS = (
    b"data: [DONE]",
    b'data: {"error"',
    # Of /v1/responses, whose streams end without `[DONE]`.
    b"event: response.completed",
    b"event: response.incomplete",
    b"event: response.failed",
    b"event: error",
)


class EventTooLarge(ValueError):
    """An event that does not end within the bound."""


class EventRelay:
    """Bytes in, whole events out."""

    def __init__(self) -> None:
        self.held = bytearray()
        """The beginning of an event whose end has not come."""
        self.passed = b""
        """The last events that came out."""

    def push(self, piece: bytes) -> bytes:
        """The events that are complete now. Raises EventTooLarge."""
        if not self.held and piece.endswith(b"\n\n"):  # as engines write them: one at a time
            self.passed = piece
            return piece
        # The end mark may lie across the border of two pieces: look a little further back.
        seen = max(0, len(self.held) - 3)
        self.held += piece
        ends = [
            at + len(mark)
            for mark in (b"\n\n", b"\r\n\r\n")
            if (at := self.held.rfind(mark, seen)) >= 0
        ]
        if not ends:
            if len(self.held) > _LARGEST_EVENT:
                raise EventTooLarge(f"an event is larger than {_LARGEST_EVENT} bytes")
            return b""
        whole = bytes(self.held[: max(ends)])
        del self.held[: max(ends)]
        self.passed = whole
        return whole

    @property
    def complete(self) -> bool:
        """The stream has said its last word: `[DONE]`, or an error of its own."""
        passed = self.passed.rstrip()
        start = max(passed.rfind(b"\n\n"), passed.rfind(b"\r\n\r\n")) + 1
        # A blank line more between two events may be cut in its middle: it is no event.
        return not self.held.strip(b"\r\n") and passed[start:].strip().startswith(_LAST_WORDS)
