"""A rank's output as lines: cut, decoded, bounded. Pure; time is an argument."""

from __future__ import annotations

from collections import deque

LONGEST_LINE = 16 * 1024
"""Bytes of one line; the rest of it is cut and said so."""
_CUT = " …[cut]"


class LogBuffer:
    """Bytes in, lines out. Holds at most `limit` lines and `limit_bytes` of text: the oldest go
    first and are counted in `dropped`."""

    def __init__(self, limit: int = 20_000, limit_bytes: int = 8 * 1024 * 1024) -> None:
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._lines: deque[tuple[float, str]] = deque()
        self._bytes = 0
        self._rest = bytearray()
        self._cutting = False
        self._tail: deque[str] = deque(maxlen=60)
        self.dropped = 0

    def feed(self, data: bytes, at: float) -> None:
        """Take output that arrived at `at` (Unix seconds)."""
        *whole, rest = data.split(b"\n")
        for part in whole:
            self._extend(part)
            self._finish(at)
        self._extend(rest)

    def close(self, at: float) -> None:
        """The stream has ended: a last line without its newline counts too."""
        if self._rest:
            self._finish(at)

    def take(self, limit: int | None) -> list[tuple[float, str]]:
        """The oldest lines, at most `limit` (None: all); they leave the buffer."""
        count = len(self._lines) if limit is None else min(limit, len(self._lines))
        taken = [self._lines.popleft() for _ in range(count)]
        self._bytes -= sum(len(line) for _, line in taken)
        return taken

    def take_dropped(self) -> int:
        """Lines dropped since the last call."""
        dropped, self.dropped = self.dropped, 0
        return dropped

    @property
    def tail(self) -> str:
        """The last lines, for a failure that says nothing else."""
        return "\n".join(self._tail)

    def _extend(self, part: bytes) -> None:
        room = LONGEST_LINE - len(self._rest)
        if len(part) > room:
            self._cutting = True
            part = part[: max(room, 0)]
        self._rest += part

    def _finish(self, at: float) -> None:
        text = bytes(self._rest).decode("utf-8", errors="replace").rstrip("\r")
        text = text.replace("\x00", "\ufffd") + (_CUT if self._cutting else "")
        self._rest.clear()
        self._cutting = False
        self._lines.append((at, text))
        self._tail.append(text)
        self._bytes += len(text)
        while len(self._lines) > self._limit or self._bytes > self._limit_bytes:
            self._bytes -= len(self._lines.popleft()[1])
            self.dropped += 1
