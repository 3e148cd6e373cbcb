"""Old logs go: said so, never half, and after a kill too."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select, update

from quarterdeck.api.log_reader import NOTICE
from quarterdeck.controller.log_retention import LogRetention
from quarterdeck.lifecycle.logs import LogBounds
from quarterdeck.store.columns import database_now
from quarterdeck.store.tables import JobRow, LogFileRow, OwnerLogsRow
from tests.integration.controller.conftest import Platform
from tests.integration.controller.test_log_keeper import Killed, Logs


@pytest.fixture
def logs(platform: Platform, tmp_path: Path) -> Logs:
    """A job with four files of ten lines and four chunks."""
    logs = Logs(platform, tmp_path / "artifacts")
    logs.write(12)
    logs.due()
    assert logs.keeper().tick() == 4
    return logs


def retention(logs: Logs, **bounds: float | None) -> LogRetention:
    limits = {"seconds": None, "total_bytes": None, "project_bytes": None, "owner_bytes": None}
    return LogRetention(logs.database, logs.shelf, LogBounds(**{**limits, **bounds}))  # type: ignore[arg-type]


def end(logs: Logs, days: float) -> None:
    """The job ended so long ago, and its log lies in files."""
    logs.idle()
    logs.keeper().tick()
    with logs.database.write() as session:
        session.execute(update(JobRow).values(phase="succeeded"))
        session.execute(update(OwnerLogsRow).values(written_at=database_now(-days * 86400)))
        session.execute(update(LogFileRow).values(created_at=database_now(-days * 86400)))


def test_old_files_go_and_the_log_says_so(logs: Logs) -> None:
    end(logs, 31)
    assert retention(logs, seconds=32 * 86400).tick() == 0
    assert logs.read() == logs.written
    assert retention(logs, seconds=30 * 86400).tick() == 5
    assert logs.counts() == (0, 0)
    assert logs.store.sizes("logs") == {} and not logs.store.exists(f"logs/{logs.job_id}")
    (event,) = [one for one in logs.platform.events(logs.job_id) if one.type == "logs.deleted"]
    assert event.message == "48 log lines deleted by retention: older than 30 days"
    for page in (
        logs.reader.after(logs.wanted(), None, 10),
        logs.reader.last(logs.wanted(ranks=frozenset({1})), 10, lambda text: False),
    ):
        (notice,) = page.lines
        assert notice.stream == NOTICE
        assert notice.line.startswith("… 48 lines until 1970-01-01 00:00:12 UTC were deleted by ")
    assert logs.reader.after(logs.wanted(), notice.cursor, 10).lines == []


def test_a_log_that_grows_for_ever_keeps_its_newest(logs: Logs) -> None:
    with logs.database.read() as session:
        sizes = list(session.scalars(select(LogFileRow.bytes).order_by(LogFileRow.id)))
    assert retention(logs, owner_bytes=sum(sizes[2:])).tick() == 2
    assert logs.counts() == (4, 2)
    first, *rest = logs.reader.after(logs.wanted(), None, 1000).lines
    assert first.line.startswith("… 20 lines until ")
    assert [line.line for line in rest] == logs.written[20:]
    logs.write(2)
    assert [line.line for line in logs.reader.after(logs.wanted(), None, 1000).lines][1:] == (
        logs.written[20:]
    )


def test_only_ended_jobs_make_room(logs: Logs) -> None:
    assert retention(logs, total_bytes=1).tick() == 0
    assert logs.read() == logs.written
    end(logs, 1)
    assert retention(logs, project_bytes=1).tick() == 5
    assert logs.counts() == (0, 0)


def test_a_controller_killed_before_the_files_go_finishes_later(logs: Logs) -> None:
    end(logs, 31)
    logs.shelf.before = [Killed()]
    with pytest.raises(Killed):
        retention(logs, seconds=86400).tick()
    assert len(logs.store.sizes("logs")) == 5
    assert [line.stream for line in logs.reader.after(logs.wanted(), None, 10).lines] == [NOTICE]
    logs.shelf.before = [OSError("read-only")]
    assert retention(logs, seconds=86400).tick() == 4
    assert retention(logs, seconds=86400).tick() == 1
    assert logs.store.sizes("logs") == {}
    events = [one for one in logs.platform.events(logs.job_id) if one.type == "logs.deleted"]
    assert len(events) == 1


def test_a_machine_with_a_wrong_clock_keeps_its_log(logs: Logs) -> None:
    """Its lines say 1970, as those of these tests do."""
    assert retention(logs, seconds=86400).tick() == 0
    assert logs.read() == logs.written
