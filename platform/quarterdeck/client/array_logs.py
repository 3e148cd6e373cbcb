"""The logs of an array: those of its members, merged by the time of their lines."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from quarterdeck.client.errors import ServerFailure, Unreachable
from quarterdeck.client.jobs import ENDED
from quarterdeck.client.logs import PAGE_LINES, LogOptions
from quarterdeck.specs.resources import Job, LogLine

if TYPE_CHECKING:
    from quarterdeck.client.client import Client

MemberLine = tuple[str, LogLine]
"""The member's name, and what it wrote."""

POLL_SECONDS = 1.0
RETRY_SECONDS = 120.0
LEAST_PAGE = 20


def read_members(client: Client, array: str, options: LogOptions) -> Iterator[MemberLine]:
    """What the members of an array wrote, fetched as it is needed. `tail` counts over all."""
    return _read(client, _begun(client, array), options, {})


def follow_members(
    client: Client,
    array: str,
    options: LogOptions,
    on_reconnect: Callable[[str], None] | None = None,
) -> Iterator[MemberLine]:
    """As `read_members`, then what they write until all of them have ended.

    Members are looked at in turn: an array may have more than the api has places for streams.
    Raises Unreachable or ServerFailure when the api is away for longer than `RETRY_SECONDS`.
    """
    clock, sleep = client.transport.clock, client.transport.sleep
    places: dict[str, str] = {}
    drained: set[str] = set()
    first = True
    lost_at: float | None = None
    while True:
        began = clock()
        try:
            over = client.jobs.get(array).phase in ENDED
            members = [job for job in _begun(client, array) if job.id not in drained]
            yield from _read(client, members, options if first else _all(options), places)
            first = False
            for job in members:
                if job.phase in ENDED:
                    yield from _rest(client, job, options, places)
                    drained.add(job.id)
            lost_at = None
        except (Unreachable, ServerFailure) as error:
            lost_at = clock() if lost_at is None else lost_at
            if clock() - lost_at > RETRY_SECONDS:
                raise
            over = False
            if on_reconnect is not None:
                on_reconnect(str(error))
        if over:
            return
        # A search without hits looks at everything again: it must not keep the api busy.
        sleep(max(POLL_SECONDS, 2 * (clock() - began)))


def _begun(client: Client, array: str) -> Sequence[Job]:
    found = client.jobs.list(array=array)
    return sorted((job for job in found if job.attempts), key=lambda job: job.array_index or 0)


def _read(
    client: Client, members: Sequence[Job], options: LogOptions, places: dict[str, str]
) -> Iterator[MemberLine]:
    """Lines after each member's place, which moves along."""
    tail = options.get("tail")
    page = max(LEAST_PAGE, PAGE_LINES // max(1, len(members)))
    lines = [_lines(client, job, options, places, page) for job in members]
    if tail is None:
        yield from heapq.merge(*lines, key=_moment)
        return
    newest: list[MemberLine] = []
    for mine in lines:
        newest = sorted([*newest, *mine], key=_moment)[-tail:]
    yield from newest


def _lines(
    client: Client, job: Job, options: LogOptions, places: dict[str, str], page: int
) -> Iterator[MemberLine]:
    after = places.get(job.id)
    for line in client.jobs.iter_logs(job.id, after=after, page=page, **options):
        yield job.name, line
        places[job.id] = line.cursor


def _rest(
    client: Client, job: Job, options: LogOptions, places: dict[str, str]
) -> Iterator[MemberLine]:
    """What an ended member's log has beyond its place: only a stream says when that is all."""
    stream = client.follow_logs(f"job/{job.id}", last_event_id=places.get(job.id), **_all(options))
    with closing(stream):  # type: ignore[type-var]
        for line in stream:
            yield job.name, line
            places[job.id] = line.cursor


def _all(options: LogOptions) -> LogOptions:
    return {**options, "tail": None}


def _moment(found: MemberLine) -> float:
    return found[1].at
