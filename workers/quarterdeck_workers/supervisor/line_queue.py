"""Log lines on their way to the control plane: bounded, and shared out fairly. Pure.

Each (rank, stream) has a queue of its own. When all of them hold too much, the longest loses its
oldest lines, with a marker line in their place: a rank that floods costs the others nothing.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Literal

from quarterdeck.specs.beats import LogChunk
from quarterdeck_workers.rank.logs import dropped_marker

Stream = Literal["output", "setup"]


@dataclass
class _Queue:
    lines: deque[tuple[float, str]] = field(default_factory=deque)
    size: int = 0
    dropped: int = 0
    dropped_at: float = 0.0
    """When the newest of the dropped lines was written."""

    def pop(self) -> tuple[float, str]:
        at, line = self.lines.popleft()
        self.size -= len(line)
        return at, line

    def drop(self) -> int:
        """Lose the oldest line; answers its characters."""
        self.dropped_at, line = self.pop()
        self.dropped += 1
        return len(line)


class LineQueue:
    """At most `limit` lines and `limit_size` characters."""

    def __init__(self, limit: int, limit_size: int) -> None:
        self._limit = limit
        self._limit_size = limit_size
        self._queues: dict[tuple[int, Stream], _Queue] = {}
        self._seq: defaultdict[tuple[int, Stream], int] = defaultdict(int)
        self._count = self._size = 0

    def __len__(self) -> int:
        return self._count

    def __bool__(self) -> bool:
        return bool(self._queues)

    @property
    def size(self) -> int:
        """Characters that wait."""
        return self._size

    def add(self, rank: int, lines: list[tuple[float, str]], stream: Stream = "output") -> int:
        """Take lines of one rank; answers how many were dropped for them."""
        if not lines:
            return 0
        queue = self._queues.setdefault((rank, stream), _Queue())
        queue.lines.extend(lines)
        size = sum(len(line) for _, line in lines)
        queue.size += size
        self._count += len(lines)
        self._size += size
        dropped = 0
        while self._over:
            many = self._count > self._limit
            longest = max(
                self._queues.values(), key=lambda each: len(each.lines) if many else each.size
            )
            half = len(longest.lines) // 2
            while self._over and len(longest.lines) > half:
                self._size -= longest.drop()
                self._count -= 1
                dropped += 1
        return dropped

    @property
    def _over(self) -> bool:
        return self._count > self._limit or (self._size > self._limit_size and self._count > 1)

    def take(self, limit: int, limit_size: int) -> list[LogChunk]:
        """Chunks of at most `limit` lines and `limit_size` characters (or one line) together,
        with equal shares for every queue; `seq` counts the chunks of each."""
        taken: dict[tuple[int, Stream], list[tuple[float, str]]] = {}
        count = size = 0
        while self._queues and count < limit and (size < limit_size or not count):
            share = max(1, (limit - count) // len(self._queues))
            share_size = max(1, (limit_size - size) // len(self._queues))
            before = count
            for key in sorted(self._queues):
                most = min(share, limit - count)
                lines = self._take_from(key, most, min(share_size, limit_size - size), not count)
                if lines:
                    taken.setdefault(key, []).extend(lines)
                    count += len(lines)
                    size += sum(len(line) for _, line in lines)
            if count == before:
                break  # no share is as long as the next line
        return [self._chunk(key, taken[key]) for key in sorted(taken)]

    def _take_from(
        self, key: tuple[int, Stream], most: int, most_size: int, always: bool
    ) -> list[tuple[float, str]]:
        queue = self._queues[key]
        lines: list[tuple[float, str]] = []
        size = 0
        while queue.lines and len(lines) < most:
            if size + len(queue.lines[0][1]) > most_size and not (always and not lines):
                break
            self._mark(queue, lines)
            lines.append(queue.pop())
            size += len(lines[-1][1])
            self._count -= 1
        self._size -= size
        if not queue.lines:
            self._mark(queue, lines)
            del self._queues[key]
        return lines

    @staticmethod
    def _mark(queue: _Queue, lines: list[tuple[float, str]]) -> None:
        if queue.dropped:
            lines.append((queue.dropped_at, dropped_marker(queue.dropped)))
            queue.dropped = 0

    def _chunk(self, key: tuple[int, Stream], lines: list[tuple[float, str]]) -> LogChunk:
        rank, stream = key
        self._seq[key] += 1
        return LogChunk(rank=rank, stream=stream, seq=self._seq[key], lines=lines)
