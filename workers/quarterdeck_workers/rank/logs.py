"""A rank's output as lines: cut, decoded, and bounded in memory and in lines a second. Pure; time
is an argument.

What comes faster than the bounds loses its middle: of each second the first and the newest lines
are kept, and a marker line between them tells how many are not. A carriage return starts a line
anew, so a progress bar becomes the last state of its line.
"""

from __future__ import annotations

import codecs
from collections import deque
from dataclasses import dataclass

LONGEST_LINE = 16 * 1024
"""Bytes of one line; the rest of it is cut, and a marker tells how many bytes that were."""
PROGRESS_SECONDS = 30.0
"""A progress bar that never ends its line is shown so often."""
_TAIL_LINES = 60


@dataclass(frozen=True)
class LogLimits:
    """What is kept of one rank's output. Sizes are bytes as the program wrote them."""

    burst_lines: int = 5_000
    burst_bytes: int = 1024 * 1024
    """Kept at once, before the rates below begin to bind."""
    lines_per_second: int = 2_000
    bytes_per_second: int = 512 * 1024
    """Sustained: half of it for the first lines of each second, half for the newest."""
    waiting_lines: int = 20_000
    waiting_bytes: int = 8 * 1024 * 1024
    """Held while nobody takes them; then the oldest go."""

    @staticmethod
    def of_gang(ranks: int) -> LogLimits:
        """A rank's share of what a run may say: 8,000 lines and 1 MiB a second."""
        return LogLimits(
            lines_per_second=max(2, min(2_000, 8_000 // max(1, ranks))),
            bytes_per_second=max(2, min(512 * 1024, 1024 * 1024 // max(1, ranks))),
        )


@dataclass(frozen=True)
class _Raw:
    """A line as written, without its end; `cut` bytes of it are not in `content`."""

    at: float
    content: bytes
    cut: int = 0


class LogBuffer:
    """Bytes in, lines out."""

    def __init__(self, limits: LogLimits | None = None) -> None:
        self._limits = limits or LogLimits()
        self._waiting: deque[_Raw | int] = deque()
        """Lines, and between them the numbers of lines that were left out there."""
        self._waiting_lines = self._waiting_bytes = 0
        self._newest: deque[_Raw] = deque()
        """Of the present second, when its first lines have used up the allowance."""
        self._newest_bytes = self._left_out = 0
        self._second: float | None = None
        self._lines_left = float(self._limits.burst_lines)
        self._bytes_left = float(self._limits.burst_bytes)
        self._rest = bytearray()
        self._cut = 0
        self._returned = False
        self._shown_at: float | None = None
        self._tail: deque[_Raw] = deque(maxlen=_TAIL_LINES)

    # --- taking in -------------------------------------------------------------------------

    def feed(self, data: bytes, at: float) -> None:
        """Take output that arrived at `at` (Unix seconds)."""
        self._tick(at)
        *whole, rest = data.split(b"\n")
        for part in whole:
            self._extend(part)
            self._finish(at)
        if rest:
            self._extend(rest)
            self._show_progress(at)

    def close(self, at: float) -> None:
        """The stream has ended: a last line without its newline counts too."""
        if self._rest or self._cut:
            self._finish(at)
        self._release()

    def _extend(self, part: bytes) -> None:
        if b"\r" not in part:
            self._append(part)
            return
        first, *later = part.split(b"\r")
        self._append(first)
        for each in later:
            self._returned = True  # the line starts anew with the next byte that is there
            self._append(each)

    def _append(self, part: bytes) -> None:
        if not part:
            return
        if self._returned:
            self._rest.clear()
            self._cut = 0
            self._returned = False
        room = LONGEST_LINE - len(self._rest)
        self._cut += max(0, len(part) - room)
        self._rest += part[:room]

    def _finish(self, at: float) -> None:
        self._keep(_Raw(at, bytes(self._rest), self._cut))
        self._rest.clear()
        self._cut = 0
        self._returned = False
        self._shown_at = None

    def _show_progress(self, at: float) -> None:
        if not self._returned:
            return
        if self._shown_at is None:
            self._shown_at = at
        elif at - self._shown_at >= PROGRESS_SECONDS:
            self._shown_at = at
            self._keep(_Raw(at, bytes(self._rest), self._cut))

    # --- bounding --------------------------------------------------------------------------

    def _keep(self, line: _Raw) -> None:
        size = len(line.content)
        self._tail.append(line)
        if self._lines_left >= 1 and self._bytes_left > 0 and not self._newest:
            self._lines_left -= 1
            self._bytes_left -= size
            self._wait_for_taking(line)
            return
        self._newest.append(line)
        self._newest_bytes += size
        most_lines = max(1, self._limits.lines_per_second // 2)
        most_bytes = self._limits.bytes_per_second // 2
        while len(self._newest) > 1 and (
            len(self._newest) > most_lines or self._newest_bytes > most_bytes
        ):
            self._newest_bytes -= len(self._newest.popleft().content)
            self._left_out += 1

    def _tick(self, now: float) -> None:
        """Begin a new second when the last one is over (or the clock was set back)."""
        if self._second is None:
            self._second = now
        passed = now - self._second
        if 0 <= passed < 1:
            return
        self._release()
        self._second = now
        limits = self._limits
        seconds = max(0.0, passed)
        self._lines_left = min(
            limits.burst_lines, self._lines_left + seconds * max(1, limits.lines_per_second / 2)
        )
        self._bytes_left = min(
            limits.burst_bytes, self._bytes_left + seconds * limits.bytes_per_second / 2
        )

    def _release(self) -> None:
        """The newest lines of the second that is over follow what is left out of it."""
        if self._left_out:
            self._waiting.append(self._left_out)
            self._left_out = 0
        for line in self._newest:
            self._wait_for_taking(line)
        self._newest.clear()
        self._newest_bytes = 0

    def _wait_for_taking(self, line: _Raw) -> None:
        self._waiting.append(line)
        self._waiting_lines += 1
        self._waiting_bytes += len(line.content)
        limits, lost = self._limits, 0
        while self._waiting_lines > 1 and (
            self._waiting_lines > limits.waiting_lines or self._waiting_bytes > limits.waiting_bytes
        ):
            lost += self._drop_oldest()
        if lost:
            self._waiting.appendleft(lost)

    def _drop_oldest(self) -> int:
        oldest = self._waiting.popleft()
        if isinstance(oldest, int):
            return oldest
        self._waiting_lines -= 1
        self._waiting_bytes -= len(oldest.content)
        return 1

    # --- handing over ----------------------------------------------------------------------

    def take(self, limit: int | None, now: float) -> list[tuple[float, str]]:
        """The oldest lines, at most `limit` (None: all); they leave the buffer. `now`: the newest
        lines of a second may be taken when it is over."""
        self._tick(now)
        taken: list[tuple[float, str]] = []
        while self._waiting and (limit is None or len(taken) < limit):
            oldest = self._waiting.popleft()
            if isinstance(oldest, int):
                following = self._waiting[0] if self._waiting else None
                at = following.at if isinstance(following, _Raw) else now
                taken.append((at, dropped_marker(oldest)))
                continue
            self._waiting_lines -= 1
            self._waiting_bytes -= len(oldest.content)
            taken.append((oldest.at, _text(oldest)))
        return taken

    @property
    def tail(self) -> str:
        """The last lines, for a failure that says nothing else."""
        return "\n".join(_text(line) for line in self._tail)


def dropped_marker(lines: int) -> str:
    """The line that stands for `lines` which were left out."""
    return f"… {lines:,} lines dropped …"


def _text(line: _Raw) -> str:
    if not line.cut:
        return line.content.decode("utf-8", errors="replace").replace("\x00", "\ufffd")
    # A character that the cut goes through is left out, not shown as a broken one.
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    kept = decoder.decode(line.content).replace("\x00", "\ufffd")
    return f"{kept} …[{line.cut:,} bytes cut]"
