"""Logs that an earlier version wrote are kept, and move like all others."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from quarterdeck.api.log_reader import LogReader
from quarterdeck.artifacts import ArtifactStore
from quarterdeck.controller.log_keeper import LogKeeper
from quarterdeck.lifecycle.logs import LogPolicy
from quarterdeck.store import migrate
from quarterdeck.store.database import make_engine
from quarterdeck.store.log_queries import LogFilter
from quarterdeck.store.sessions import Database
from quarterdeck.store.tables import OwnerLogsRow

POLICY = LogPolicy(hot_chunks=0, file_chunks=2, idle_seconds=0)


def filled(table: sa.Table, **values: Any) -> dict[str, Any]:
    """A row with something in every column that must not be null."""
    usual: dict[type, Any] = {
        str: "x", int: 0, float: 0.0, bool: False, object: {}, datetime: datetime.now(UTC),
    }  # fmt: skip

    def value(column: sa.Column[Any]) -> Any:
        return usual[column.type.python_type]

    needed = {
        column.name: value(column)
        for column in table.columns
        if not column.nullable and column.server_default is None
    }
    return {**needed, **values}


def test_older_lines_are_read_and_moved(database_url: str, tmp_path: Path) -> None:
    migrate.upgrade(database_url, "0006")
    engine = make_engine(database_url)
    metadata = sa.MetaData()
    metadata.reflect(engine)
    runs, chunks = metadata.tables["runs"], metadata.tables["log_chunks"]
    with engine.begin() as connection:
        if "projects" in metadata.tables:
            connection.execute(
                metadata.tables["projects"].insert(),
                filled(metadata.tables["projects"], name="default"),
            )
        connection.execute(
            runs.insert(),
            filled(
                runs, id="run-1", owner_id="job-1", owner_type="job", owner_name="old",
                project="default", epoch=1, placements=[], ranks=[],
            ),
        )  # fmt: skip
        for seq in range(1, 6):
            connection.execute(
                chunks.insert(),
                filled(
                    chunks, id=seq, run_id="run-1", owner_id="job-1", epoch=1, rank=0,
                    stream="output", seq=seq, first_at=1.0, last_at=1.0,
                    lines=[[1.0, f"line {seq}"]],
                ),
            )  # fmt: skip
    engine.dispose()
    migrate.upgrade(database_url)

    database = Database.open(database_url)
    store = ArtifactStore(str(tmp_path / "artifacts"))
    reader = LogReader(database, store)
    wanted = LogFilter("job-1")
    expected = [f"line {seq}" for seq in range(1, 6)]
    assert [line.line for line in reader.after(wanted, None, 10).lines] == expected
    old_cursor = reader.after(wanted, "3.0", 10)  # as that version gave it out
    assert [line.line for line in old_cursor.lines] == expected[3:]
    with database.read() as session:
        kept = session.get_one(OwnerLogsRow, "job-1")
        assert (kept.owner_name, kept.hot_chunks) == ("old", 5) and kept.hot_size > 30
    assert LogKeeper(database, store, POLICY).tick() == 3
    assert [line.line for line in reader.after(wanted, None, 10).lines] == expected
    database.close()
