"""Parameters that many operations share."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import Header, Path, Query
from pydantic import Field

from quarterdeck.api.log_search import LONGEST
from quarterdeck.api.problems import ProblemError
from quarterdeck.specs.base import NAME_PATTERN
from quarterdeck.specs.units import parse_duration

LARGEST_INT = 2**31 - 1
IDENTITY = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$"

Identity = Annotated[
    str, Path(pattern=IDENTITY, description="Its id, or its name: the newest called so.")
]
NamePath = Annotated[str, Path(pattern=NAME_PATTERN, description="Its name.")]
Limit = Annotated[int, Query(ge=1, le=500, description="Most items of the page.")]
Cursor = Annotated[
    str | None, Query(max_length=500, description="`next_cursor` of the page before.")
]
Follow = Annotated[
    bool, Query(description="Answer with server-sent events that go on as things happen.")
]
LastEventId = Annotated[
    str | None,
    Header(max_length=60, pattern=r"^[0-9.]*$", description="Go on after this message."),
]
LogLimit = Annotated[int, Query(ge=1, le=5000, description="Most lines of the page.")]
Ranks = Annotated[
    list[Annotated[int, Field(ge=0, le=LARGEST_INT)]] | None,
    Query(max_length=1024, description="Lines of this rank only; may be given several times."),
]
LogStream = Annotated[
    Literal["output", "setup"] | None, Query(description="`output` or `setup`; default: both.")
]
Search = Annotated[
    str | None,
    Query(min_length=1, max_length=LONGEST, description="Lines that hold this text only."),
]
AsRegex = Annotated[bool, Query(description="`search` is a regular expression.")]
Epoch = Annotated[int | None, Query(ge=1, le=LARGEST_INT, description="Lines of this run only.")]
Tail = Annotated[int | None, Query(ge=1, le=10_000, description="The newest lines only.")]
Since = Annotated[
    str | None,
    Query(max_length=40, description="A moment (ISO 8601), or how long ago: `10m`."),
]
IfMatch = Annotated[
    str | None, Header(max_length=100, description="The ETag that was read; `*` for any.")
]


def since_seconds(text: str | None, now: float) -> float | None:
    """Unix seconds of a moment (ISO 8601; without a zone UTC) or an age before `now`.

    Raises ProblemError `invalid_parameter`.
    """
    if text is None:
        return None
    try:
        return now - parse_duration(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ProblemError(
            "invalid_parameter",
            f"since: {text!r} is neither a moment nor an age: write 2026-01-31T12:00:00Z or 10m",
        ) from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def event_number(text: str | None) -> int:
    """The event id in a cursor or Last-Event-ID; 0 for none. Raises `invalid_parameter`."""
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise ProblemError(
            "invalid_parameter", f"{text[:40]!r} is no event's id: start again without it"
        )
    return int(text)


def check_etag(given: str | None, current: str, *, required: bool) -> None:
    """Compare If-Match with the ETag of what is stored. Raises `etag_required`, `stale_etag`."""
    if given is None:
        if required:
            raise ProblemError(
                "etag_required", "send If-Match with the ETag that you read (or * for any)"
            )
        return
    tags = [tag.strip().removeprefix("W/") for tag in given.split(",")]
    if "*" not in tags and current not in tags:
        raise ProblemError(
            "stale_etag", f"If-Match {given} is not the present ETag {current}: read it again"
        )


def etag(version: int) -> str:
    """The ETag of a resource's version."""
    return f'"{version}"'
