"""Stretches of a log as the database, the artifact store and their readers exchange them."""

from __future__ import annotations

from dataclasses import dataclass

LogKey = tuple[int, int]
"""Where a chunk stands in its owner's log: (transaction, id). Readers go by this order."""
FIRST: LogKey = (0, 0)
"""Before every chunk."""


@dataclass(frozen=True)
class LogRecord:
    """The lines that one rank sent with one beat: [unix seconds, text] each."""

    key: LogKey
    epoch: int
    rank: int
    stream: str
    seq: int
    lines: list[list[float | str]]


@dataclass(frozen=True)
class LogPart:
    """Where a file holds the records of one rank and stream."""

    epoch: int
    rank: int
    stream: str
    offset: int
    size: int
    first_seq: int
    last_seq: int
