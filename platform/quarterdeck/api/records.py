"""Events and log lines of an owner, as pages and as streams."""

from __future__ import annotations

from collections.abc import Callable

from quarterdeck.api.log_reader import LogReader, Match
from quarterdeck.api.parameters import event_number
from quarterdeck.api.problems import ProblemError
from quarterdeck.api.streams import BATCH, Batch
from quarterdeck.api.views import event_view
from quarterdeck.specs.resources import Event, LogLine, Page
from quarterdeck.store.log_queries import LogFilter, unseen
from quarterdeck.store.outbox import events_after
from quarterdeck.store.paging import BadCursor
from quarterdeck.store.record_queries import newest_event
from quarterdeck.store.sessions import Database, Session

Ended = Callable[[Session], bool]
"""Whether the owner has ended, so that nothing more will come."""


def event_page(
    database: Database,
    cursor: str | None,
    limit: int,
    *,
    project: str | None = None,
    subject_id: str | None = None,
) -> Page[Event]:
    """Events in commit order, oldest first."""
    with database.read() as session:
        rows = events_after(
            session, event_number(cursor), limit=limit + 1, project=project, subject_id=subject_id
        )
    more = str(rows[limit - 1].id) if len(rows) > limit else None
    return Page(items=[event_view(row) for row in rows[:limit]], next_cursor=more)


def event_look(
    database: Database,
    *,
    project: str | None = None,
    subject_id: str | None = None,
    ended: Ended | None = None,
) -> Callable[[str | None], Batch[Event]]:
    """What a stream of events looks for."""

    def look(last: str | None) -> Batch[Event]:
        after = event_number(last)
        with database.read() as session:
            over = ended is not None and ended(session)
            rows = events_after(session, after, limit=BATCH, project=project, subject_id=subject_id)
            if over and subject_id is not None:
                # On PostgreSQL the last event may be committed and not yet given out.
                seen = max([after, *(row.id for row in rows)])
                over = newest_event(session, subject_id) <= seen
        return Batch([(str(row.id), event_view(row)) for row in rows], over)

    return look


def log_page(
    reader: LogReader,
    wanted: LogFilter,
    match: Match | None,
    cursor: str | None,
    limit: int,
    tail: int | None,
) -> Page[LogLine]:
    """Lines in the order of their arrival; `tail` chooses the newest where no cursor does. A page
    may hold fewer than `limit` lines, or none, and still have a next one: searches are bounded."""
    if tail is not None and cursor is None:
        return Page(items=list(reader.last(wanted, tail, match).lines))
    found = reader.after(wanted, cursor, limit, match)
    return Page(items=list(found.lines), next_cursor=found.place if found.more else None)


def log_look(
    database: Database,
    reader: LogReader,
    wanted: LogFilter,
    match: Match | None,
    tail: int | None,
    ended: Ended,
) -> Callable[[str | None], Batch[LogLine]]:
    """What a stream of lines looks for."""

    def look(last: str | None) -> Batch[LogLine]:
        with database.read() as session:
            over = ended(session) and not unseen(session, wanted.owner_id)
        try:
            if tail is not None and not last:
                found = reader.last(wanted, tail, match)
            else:
                found = reader.after(wanted, last or None, BATCH, match)
        except BadCursor as error:
            raise ProblemError("invalid_parameter", f"Last-Event-ID: {error}") from error
        items = [(line.cursor, line) for line in found.lines]
        return Batch(items, over, found.place, found.more)

    return look
