"""Reading a log wherever its lines are: the newest in the database, the rest in files.

Each step asks the database in a session of its own and reads files outside of it. A step's work
is bounded: a search through a long log comes in pages, each with the place to go on from.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from quarterdeck.api.problems import ProblemError
from quarterdeck.artifacts import ArtifactError, ArtifactStore, Corrupt
from quarterdeck.artifacts.log_files import read
from quarterdeck.specs.log_records import FIRST, LogKey, LogRecord
from quarterdeck.specs.resources import LogLine
from quarterdeck.store.log_queries import (
    CHUNKS,
    LogFile,
    LogFilter,
    Pruned,
    Stretch,
    following,
    is_stored,
    preceding,
    pruned,
    read_cursor,
)
from quarterdeck.store.sessions import Database

Match = Callable[[str], bool]
"""Whether a line's text is looked for."""

SCANNED_LINES = 50_000
"""Lines that one page looks at, at most by one file more."""
SCANNED_FOR_TAIL = 500_000
STEP_LINES = 500
"""What a look at the database counts for, at least."""
CACHED_FILES = 4
READ_AT_ONCE = 4
"""Files that are decompressed at the same moment: some 10 MB of memory each."""
NOTICE = "notice"
"""The `stream` of lines that the platform itself adds: what is missing, and why."""
_END = 10**9


@dataclass(frozen=True)
class Found:
    """Lines in order. `place` is the cursor to go on from, None for the beginning; `more` says
    that the bound was reached before the log's end."""

    lines: Sequence[LogLine]
    place: str | None
    more: bool


class LogReader:
    """Reads the logs of one installation; used from many threads."""

    def __init__(self, database: Database, files: ArtifactStore) -> None:
        self._database = database
        self._files = files
        self._cache: OrderedDict[object, list[LogRecord]] = OrderedDict()
        self._lock = threading.Lock()
        self._reading = threading.Semaphore(READ_AT_ONCE)

    def after(
        self, wanted: LogFilter, cursor: str | None, limit: int, match: Match | None = None
    ) -> Found:
        """At most `limit` lines after `cursor` (a line's; None: from the first).

        Raises BadCursor, and ProblemError `artifacts_unavailable`.
        """
        lines: list[LogLine] = []
        place, skip = FIRST, -1
        if cursor is not None:
            with self._database.read() as session:
                place, skip = read_cursor(session, cursor)
        else:
            lines += self._pruned_notice(wanted)
        scanned = 0
        more = True
        while more and len(lines) <= limit and scanned < SCANNED_LINES:
            with self._database.read() as session:
                step = following(session, wanted, place, inclusive=skip < _END)
            records = self._records(step, wanted)
            if records is None:
                continue  # retention took the file meanwhile
            seen = list(_lines(records, wanted, place, skip))
            lines += [line for line in seen if _chosen(line, match)]
            scanned += max(STEP_LINES, len(seen))
            if isinstance(step, LogFile):
                place, skip = step.last, _END
                continue
            more = len(step) == CHUNKS
            if step:
                place, skip = step[-1].key, _END
        if len(lines) > limit:
            return Found(lines[:limit], lines[limit - 1].cursor, True)
        if place == FIRST:
            return Found(lines, lines[-1].cursor if lines else cursor, more)
        return Found(lines, _cursor(place, skip), more)

    def last(self, wanted: LogFilter, count: int, match: Match | None = None) -> Found:
        """The newest `count` lines, oldest of them first."""
        lines: list[LogLine] = []
        end: str | None = None
        place: LogKey | None = None
        scanned = 0
        while len(lines) < count and scanned < SCANNED_FOR_TAIL:
            with self._database.read() as session:
                step = preceding(session, wanted, place)
            records = self._records(step, wanted)
            if records is None:
                continue
            if not step:
                lines = [*self._pruned_notice(wanted), *lines]
                return Found(lines[-count:], end, False)
            if place is None:
                end = _cursor(step.last if isinstance(step, LogFile) else step[-1].key, _END)
            before = [record for record in records if place is None or record.key < place]
            seen = list(_lines(before, wanted, FIRST, -1))
            lines = [line for line in seen if _chosen(line, match)] + lines
            scanned += max(STEP_LINES, len(seen))
            place = step.first if isinstance(step, LogFile) else step[0].key
        if len(lines) < count and place is not None:
            text = f"… {scanned:,} lines were searched, older ones were not …"
            lines.insert(0, _notice(_cursor(place, 0), text))
        return Found(lines[-count:], end, False)

    # --- files -----------------------------------------------------------------------------

    def _records(self, step: Stretch, wanted: LogFilter) -> Sequence[LogRecord] | None:
        """A step's records; None when the file is gone because retention took it."""
        if not isinstance(step, LogFile):
            return step
        parts = tuple(part for part in step.parts if wanted.wants(part))
        if not parts:
            return []
        key = (step.id, parts)
        with self._lock:
            if (known := self._cache.get(key)) is not None:
                self._cache.move_to_end(key)
                return known
        try:
            with self._reading:
                records = read(self._files, step.path, parts)
        except FileNotFoundError:
            with self._database.read() as session:
                if not is_stored(session, step.id):
                    return None
            return _missing(step, "is not in the artifact store")
        except Corrupt:
            return _missing(step, "is damaged")
        except (OSError, ArtifactError) as error:
            raise ProblemError(
                "artifacts_unavailable", f"{step.path} cannot be read: {type(error).__name__}"
            ) from error
        if step.last[0] == 0:
            # A restored database may have forgotten its transactions, which the file still tells.
            records = [replace(record, key=(0, record.key[1])) for record in records]
        with self._lock:
            self._cache[key] = records
            while len(self._cache) > CACHED_FILES:
                self._cache.popitem(last=False)
        return records

    def _pruned_notice(self, wanted: LogFilter) -> list[LogLine]:
        with self._database.read() as session:
            gone = pruned(session, wanted.owner_id)
        return [] if gone is None else [_notice(_cursor(FIRST, 0), _pruned_text(gone))]


def _chosen(line: LogLine, match: Match | None) -> bool:
    return match is None or line.stream == NOTICE or match(line.line)


def _lines(
    records: Iterable[LogRecord], wanted: LogFilter, place: LogKey, skip: int
) -> Iterable[LogLine]:
    """Lines after line `skip` of the chunk at `place`."""
    for record in records:
        if record.key < place:
            continue
        for number, (at, text) in enumerate(record.lines):
            if record.key == place and number <= skip:
                continue
            if wanted.since is not None and float(at) < wanted.since:
                continue
            yield LogLine(
                cursor=_cursor(record.key, number), rank=record.rank, epoch=record.epoch,
                at=float(at), line=str(text), stream=record.stream,
            )  # fmt: skip


def _missing(file: LogFile, what: str) -> list[LogRecord]:
    text = f"… {file.lines:,} lines are missing: {file.path} {what} …"
    return [LogRecord(file.last, 0, -1, NOTICE, 0, [[file.last_at, text]])]


def _notice(cursor: str, text: str) -> LogLine:
    return LogLine(cursor=cursor, rank=-1, epoch=0, at=0.0, line=text, stream=NOTICE)


def _pruned_text(gone: Pruned) -> str:
    until = datetime.fromtimestamp(gone.until, UTC)
    return (
        f"… {gone.lines:,} lines until {until:%Y-%m-%d %H:%M:%S} UTC were deleted by retention on "
        f"{gone.at:%Y-%m-%d %H:%M} UTC …"
    )


def _cursor(key: LogKey, line: int) -> str:
    return f"{key[0]}.{key[1]}.{line}"
