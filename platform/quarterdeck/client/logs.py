"""Which log lines are wanted, the same for jobs and services, listed or followed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

PAGE_LINES = 2000


class LogOptions(TypedDict, total=False):
    """Options of every method that reads logs; all may be left out.

    `rank`: one or several; `since`: a moment (ISO 8601) or an age as `10m`; `tail`: the newest so
    many; `stream`: `output` or `setup`; `epoch`: the attempt's number; `search`: only lines that
    hold this text, with `regex` a regular expression.
    """

    rank: int | Sequence[int] | None
    since: str | None
    tail: int | None
    stream: str | None
    epoch: int | None
    search: str | None
    regex: bool


def log_params(options: LogOptions) -> dict[str, Any]:
    """The options as query parameters."""
    rank = options.get("rank")
    return {
        **options,
        "rank": [rank] if isinstance(rank, int) else rank,
        "regex": options.get("regex") or None,
    }
