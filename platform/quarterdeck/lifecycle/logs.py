"""How much of a log stays in the database, and what moves to files. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


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
