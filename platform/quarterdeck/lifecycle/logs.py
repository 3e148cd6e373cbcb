"""How much of a log stays in the database, what moves to files, and what goes. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class LogPolicy:
    """Sizes are characters of lines; a chunk is what one rank said in one beat."""

    hot_chunks: int = 500
    hot_size: int = 512 * 1024
    """The newest of each owner's log, which stay in the database while it is written."""
    file_chunks: int = 2_000
    file_size: int = 2 * 1024 * 1024
    """What one file holds: a file is made when so much is there beyond the newest."""
    idle_seconds: float = 600.0
    """After this without a line everything moves."""


DEFAULT = LogPolicy()


def overfull(policy: LogPolicy, chunks: int, size: int) -> bool:
    """Whether a file's worth has gathered beyond what stays."""
    return (
        chunks >= policy.hot_chunks + policy.file_chunks
        or size >= policy.hot_size + policy.file_size
    )


def stretch(policy: LogPolicy, sizes: Sequence[int], chunks: int, size: int, *, idle: bool) -> int:
    """How many of the oldest chunks go into the next file.

    `sizes` are those of the oldest chunks in order (at least a file's worth where there are so
    many), `chunks` and `size` what all of the owner's in the database amount to. The same log
    gives the same files, so that work done twice writes the same file twice.
    """
    if not idle and not overfull(policy, chunks, size):
        return 0
    count = taken = 0
    for each in sizes[: policy.file_chunks]:
        if count and taken + each > policy.file_size:
            break
        count += 1
        taken += each
    return count


@dataclass(frozen=True)
class LogBounds:
    """How long, and how much of all logs is kept. Bytes are those of the compressed files; None
    is no bound."""

    seconds: float | None = 30 * 86400.0
    """Files that were made longer ago go, whoever's they are."""
    total_bytes: int | None = 50 * 2**30
    """Of the installation. Beyond it whole logs of ended jobs go, the oldest first."""
    project_bytes: int | None = None
    """As `total_bytes`, of each project."""
    owner_bytes: int | None = 5 * 2**30
    """Of one job or service. Beyond it its own oldest files go."""


@dataclass(frozen=True)
class Shelved:
    """What files hold of one log."""

    id: str
    project: str
    written_at: datetime
    bytes: int
    ended: bool


def whole_logs_to_delete(logs: Sequence[Shelved], bounds: LogBounds) -> list[str]:
    """The ended owners whose logs go so that every project and the installation keep their
    bounds, the one that was silent for longest first."""
    total = sum(each.bytes for each in logs)
    projects: Counter[str] = Counter()
    for each in logs:
        projects[each.project] += each.bytes
    chosen = []
    for each in sorted(logs, key=lambda each: (each.written_at, each.id)):
        over = (
            bounds.project_bytes is not None and projects[each.project] > bounds.project_bytes
        ) or (bounds.total_bytes is not None and total > bounds.total_bytes)
        if each.ended and over:
            chosen.append(each.id)
            total -= each.bytes
            projects[each.project] -= each.bytes
    return chosen
