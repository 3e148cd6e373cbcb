"""Logs move from the database into files: stopped anywhere, nothing is lost or doubled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from quarterdeck.api.log_reader import NOTICE, LogReader
from quarterdeck.artifacts import ArtifactStore
from quarterdeck.controller import log_keeper as log_keeper_module
from quarterdeck.controller.log_keeper import LogKeeper
from quarterdeck.lifecycle.logs import LogPolicy
from quarterdeck.specs.beats import LogChunk
from quarterdeck.store.backups import ID_GAP, _skip_ids
from quarterdeck.store.columns import database_now
from quarterdeck.store.log_queries import LogFilter
from quarterdeck.store.sessions import Database
from quarterdeck.store.tables import LogChunkRow, LogFileRow, OwnerLogsRow
from tests.integration.controller.conftest import Platform, command

SMALL = LogPolicy(hot_chunks=4, hot_size=10**6, file_chunks=5, file_size=10**6, idle_seconds=600)


class Killed(BaseException):
    """The controller is gone at this point: no handler of its own sees it."""


class Shelf:
    """A store that fails where a test says: before a file is written, or after it."""

    def __init__(self, store: ArtifactStore) -> None:
        self.store = store
        self.before: list[BaseException] = []
        self.after: list[BaseException] = []

    def put_bytes(self, content: bytes, path: str) -> object:
        if self.before:
            raise self.before.pop()
        entry = self.store.put_bytes(content, path)
        if self.after:
            raise self.after.pop()
        return entry

    def delete_prefix(self, path: str) -> object:
        if self.before:
            raise self.before.pop()
        return self.store.delete_prefix(path)


class Logs:
    """One job whose two ranks write, a keeper, and a reader."""

    def __init__(self, platform: Platform, folder: Path) -> None:
        self.platform = platform
        self.database: Database = platform.database
        self.store = ArtifactStore(str(folder))
        self.shelf = Shelf(self.store)
        self.job_id, self.run = platform.started(command("a", ranks=2))
        self.reader = LogReader(self.database, self.store)
        self.written: list[str] = []
        self.seqs = {0: 0, 1: 0}

    def keeper(self, policy: LogPolicy = SMALL) -> LogKeeper:
        return LogKeeper(self.database, self.shelf, policy)

    def write(self, beats: int, *, stream: str = "output") -> None:
        """Every beat carries a chunk of each rank, of two lines."""
        for _ in range(beats):
            chunks = []
            for rank in (0, 1):
                self.seqs[rank] += 1
                seq = self.seqs[rank]
                lines = [(float(seq), f"r{rank} {seq}.{each}") for each in range(2)]
                chunks.append(LogChunk(rank=rank, seq=seq, stream=stream, lines=lines))
                self.written += [text for _, text in lines]
            self.platform.agent.say(self.run, "running", logs=chunks)

    def due(self, **changes: Any) -> None:
        """The log is due now, and nobody holds its lease any more."""
        with self.database.write() as session:
            values = {"due_at": database_now(-1), "lease_until": None, **changes}
            session.execute(update(OwnerLogsRow).values(values))

    def idle(self) -> None:
        self.due(written_at=database_now(-10_000))

    def wanted(self, **fields: Any) -> LogFilter:
        return LogFilter(self.job_id, **fields)

    def read(self, limit: int = 7, **fields: Any) -> list[str]:
        """All lines, page by page."""
        found: list[str] = []
        cursor = None
        while True:
            page = self.reader.after(self.wanted(**fields), cursor, limit)
            assert len(page.lines) <= limit
            found += [line.line for line in page.lines]
            cursor = page.place
            if not page.more:
                return found

    def counts(self) -> tuple[int, int]:
        """Chunks in the database, files in the index; both agree with what is kept of them."""
        with self.database.read() as session:
            chunks = session.scalars(select(LogChunkRow)).all()
            files = session.scalars(select(LogFileRow)).all()
            kept = session.get_one(OwnerLogsRow, self.job_id)
            assert (kept.hot_chunks, kept.hot_size) == (
                len(chunks), sum(chunk.size for chunk in chunks),
            )  # fmt: skip
            assert kept.stored_lines == sum(file.lines for file in files)
            assert kept.stored_bytes == sum(file.bytes for file in files)
            for file in files:
                assert self.store.sizes("logs")[file.path.removeprefix("logs/")] == file.bytes
        return len(chunks), len(files)


@pytest.fixture
def logs(platform: Platform, tmp_path: Path) -> Logs:
    return Logs(platform, tmp_path / "artifacts")


def test_what_is_read_is_the_same_wherever_the_lines_are(logs: Logs) -> None:
    logs.write(12)
    logs.due()
    assert logs.keeper().tick() == 4  # of 24 chunks five a file, while nine or more are there
    assert logs.counts() == (4, 4)
    assert logs.read() == logs.written
    rank_one = [line for line in logs.written if line.startswith("r1")]
    assert logs.read(ranks=frozenset({1})) == rank_one
    assert logs.read(since=11.5) == logs.written[-4:]
    assert (
        logs.read(ranks=frozenset({0}), since=5.0)
        == [line for line in logs.written if line.startswith("r0")][8:]
    )
    assert logs.read(stream="setup") == logs.read(epoch=2) == []
    for count in (1, 5, 9, 30, 48, 100):
        lines = logs.reader.last(logs.wanted(), count).lines
        assert [line.line for line in lines] == logs.written[-count:]
    last = logs.reader.last(logs.wanted(ranks=frozenset({1})), 11).lines
    assert [line.line for line in last] == rank_one[-11:]


def test_every_cursor_stays_valid_across_the_move(logs: Logs) -> None:
    logs.write(8)
    before = logs.reader.after(logs.wanted(), None, 1000).lines
    logs.due()
    logs.keeper().tick()
    logs.write(3)
    for place, line in enumerate(before):
        rest = logs.reader.after(logs.wanted(), line.cursor, 1000)
        assert [each.line for each in rest.lines] == logs.written[place + 1 :]
        assert not rest.more
    assert rest.place is not None
    assert logs.reader.after(logs.wanted(), rest.place, 10).lines == []
    logs.idle()
    logs.keeper().tick()
    assert logs.counts()[0] == 0
    assert logs.reader.after(logs.wanted(), rest.place, 10).lines == []
    logs.write(1)
    again = logs.reader.after(logs.wanted(), rest.place, 10)
    assert [each.line for each in again.lines] == logs.written[-4:]


@pytest.mark.parametrize(
    "point", ["before the file", "after the file", "before the commit", "before the release"]
)
def test_a_controller_killed_between_two_steps_loses_and_doubles_nothing(
    logs: Logs, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs.write(12)
    logs.due()

    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if point == "before the file":
            logs.shelf.before = [Killed()]
        elif point == "after the file":
            logs.shelf.after = [Killed()]
        elif point == "before the commit":
            patch.setattr(log_keeper_module, "move_to_file", _then(killed))
        else:
            patch.setattr(log_keeper_module, "release_logs", killed)
        with pytest.raises(Killed):
            logs.keeper().tick()
    assert logs.read() == logs.written
    assert logs.keeper().tick() == 0  # the lease of the dead holds
    logs.write(1)
    logs.due()
    logs.keeper().tick()
    assert logs.read() == logs.written
    chunks, files = logs.counts()
    assert (chunks, files) == (6, 4)
    assert len(logs.store.sizes("logs")) == files  # and no file is left over


def _then(killed: Callable[..., None]) -> Callable[..., None]:
    from quarterdeck.store.log_keeping import move_to_file

    def moved(*arguments: Any, **options: Any) -> None:
        move_to_file(*arguments, **options)
        killed()

    return moved


def test_two_controllers_with_one_log_change_it_once(logs: Logs) -> None:
    """The first is stopped for so long, with its file written, that its lease runs out."""
    logs.write(12)
    logs.due()

    class Stopped(Shelf):
        def put_bytes(self, content: bytes, path: str) -> object:
            entry = self.store.put_bytes(content, path)
            if not self.after:
                self.after.append(Killed())
                logs.due()
                assert logs.keeper().tick() == 4  # the second controller, meanwhile
            return entry

    assert LogKeeper(logs.database, Stopped(logs.store), SMALL).tick() == 0
    assert logs.counts() == (4, 4)
    assert logs.read() == logs.written


def test_a_store_that_is_away_costs_nothing_but_time(logs: Logs) -> None:
    logs.write(12)
    logs.due()
    logs.shelf.before = [OSError("no route to host")]
    assert logs.keeper().tick() == 0
    assert logs.counts() == (24, 0)
    assert logs.keeper().tick() == 0  # not at once again
    logs.due()
    assert logs.keeper().tick() == 4
    assert logs.read() == logs.written


def test_lines_that_come_while_a_file_is_made_stay(logs: Logs) -> None:
    logs.write(6)

    class Busy(Shelf):
        def put_bytes(self, content: bytes, path: str) -> object:
            logs.write(1)
            return self.store.put_bytes(content, path)

    logs.idle()
    LogKeeper(logs.database, Busy(logs.store), SMALL).tick()
    assert logs.read() == logs.written
    chunks, files = logs.counts()
    assert files >= 1 and chunks >= 2


def test_readers_see_every_line_once_while_it_moves(logs: Logs) -> None:
    """The move happens between a reader's two questions, and between its pages."""
    logs.write(12)
    logs.due()
    keeper = logs.keeper()
    database = logs.database

    @contextmanager
    def moving() -> Iterator[Any]:
        with database.read() as session:
            if session.get_bind().dialect.name == "sqlite":
                yield session  # one snapshot: nothing moves within
                return
            ask = session.scalars
            asked = 0

            def scalars(*arguments: Any, **options: Any) -> Any:
                nonlocal asked
                asked += 1
                if asked == 2:
                    logs.due()
                    keeper.tick()
                return ask(*arguments, **options)

            session.scalars = scalars  # type: ignore[method-assign]
            yield session

    class Moving:
        read = staticmethod(moving)

    reader = LogReader(Moving(), logs.store)  # type: ignore[arg-type]
    cursor, found = None, []
    while True:
        page = reader.after(logs.wanted(), cursor, 5)
        found += [line.line for line in page.lines]
        cursor = page.place
        logs.due()
        keeper.tick()
        if not page.more:
            break
    assert found == logs.written


def test_a_restored_database_reads_on_behind_its_files(logs: Logs) -> None:
    """As `db restore` leaves it: transactions forgotten, ids beyond all that were given out."""
    logs.write(5)
    with logs.database.write() as session:
        # Ids far beyond what an empty table of chunks would tell.
        session.execute(update(LogChunkRow).values(id=LogChunkRow.id + 10 * ID_GAP))
    logs.idle()
    logs.keeper().tick()
    assert logs.counts() == (0, 2)
    with logs.database.write() as session:
        session.execute(update(LogFileRow).values(first_transaction=0, last_transaction=0))
        _skip_ids(session, LogChunkRow)
    logs.write(2)
    assert logs.read(limit=3) == logs.written
    assert [line.line for line in logs.reader.last(logs.wanted(), 13).lines] == logs.written[-13:]


def test_a_file_that_is_gone_or_damaged_is_said_so(logs: Logs) -> None:
    logs.write(12)
    logs.due()
    logs.keeper().tick()
    with logs.database.read() as session:
        paths = [file.path for file in session.scalars(select(LogFileRow).order_by(LogFileRow.id))]
    logs.store.delete_prefix(paths[0])
    content = logs.store.read_bytes(paths[1])
    logs.store.put_bytes(content[:20] + b"?" + content[21:], paths[1])
    page = logs.reader.after(logs.wanted(), None, 1000)
    notices = [line for line in page.lines if line.stream == NOTICE]
    assert [line.line for line in notices] == [
        f"… 10 lines are missing: {paths[0]} is not in the artifact store …",
        f"… 10 lines are missing: {paths[1]} is damaged …",
    ]
    assert [line.line for line in page.lines[2:]] == logs.written[20:]
    assert logs.read(limit=1)[2:] == logs.written[20:]
    assert [line.line for line in logs.reader.last(logs.wanted(), 28).lines] == logs.written[20:]


def test_a_search_through_a_long_log_is_bounded_and_goes_on(
    logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quarterdeck.api import log_reader

    monkeypatch.setattr(log_reader, "SCANNED_LINES", 1000)  # two looks
    monkeypatch.setattr(log_reader, "SCANNED_FOR_TAIL", 1000)
    logs.write(12)
    logs.due()
    logs.keeper().tick()
    cursor, pages, found = None, 0, []
    while True:
        page = logs.reader.after(logs.wanted(), cursor, 100, lambda text: text == "r1 12.1")
        pages, cursor = pages + 1, page.place
        found += [line.line for line in page.lines]
        if not page.more:
            break
    assert found == ["r1 12.1"] and pages > 2
    last = logs.reader.last(logs.wanted(), 5, lambda text: text == "r0 1.0")
    assert [line.stream for line in last.lines] == [NOTICE]
    assert "were searched, older ones were not" in last.lines[0].line


def test_what_setup_wrote_can_be_read_apart(logs: Logs) -> None:
    logs.write(3)
    logs.write(3, stream="setup")
    logs.idle()
    logs.keeper().tick()
    assert logs.counts()[0] == 0
    assert logs.read(stream="setup") == logs.written[12:]
    assert logs.read(stream="output") == logs.written[:12]
