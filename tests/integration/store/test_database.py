"""Transactions, the clock and the outbox on both databases."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from quarterdeck.store.columns import database_now
from quarterdeck.store.database import DatabaseUrlError, make_engine
from quarterdeck.store.outbox import append_event, events_after
from quarterdeck.store.sessions import Database
from quarterdeck.store.tables import EventRow, KeyRow, SettingRow


def tell(session: Session, message: str) -> EventRow:
    return append_event(
        session, type="t", subject="s", subject_id="s", project="default", message=message
    )


def test_four_writers_that_read_first_lose_nothing(database: Database) -> None:
    with database.write() as session:
        session.add(SettingRow(name="n", value={"value": 0}))
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(25):
                with database.write() as session:
                    row = session.scalars(
                        select(SettingRow).where(SettingRow.name == "n").with_for_update()
                    ).one()
                    row.value = {"value": row.value["value"] + 1}
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert errors == []
    with database.read() as session:
        assert session.get_one(SettingRow, "n").value == {"value": 100}


def test_a_block_that_raises_writes_nothing(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.write() as session:
        tell(session, "never")
        session.flush()
        raise ZeroDivisionError
    with database.read() as session:
        assert events_after(session, 0) == []


def test_foreign_keys_hold(database: Database) -> None:
    with pytest.raises(IntegrityError), database.write() as session:
        session.add(
            KeyRow(id="k", name="k", sha256="x", prefix="p", access="viewer", project="nowhere")
        )


def test_the_database_clock_compares_and_comes_back_aware(database: Database) -> None:
    with database.write() as session:
        event = tell(session, "now")
        session.flush()
        assert event.at.tzinfo is UTC
    with database.read() as session:
        now, earlier = session.execute(select(database_now(), database_now(-90))).one()
        assert timedelta(seconds=89) < now - earlier < timedelta(seconds=91)
        assert abs(now - datetime.now(UTC)) < timedelta(minutes=5)

        def count(offset: float) -> int | None:
            return session.scalar(
                select(func.count()).select_from(EventRow).where(EventRow.at > database_now(offset))
            )

        assert (count(-60), count(60)) == (1, 0)
    with database.write() as session:
        session.execute(update(EventRow).values(at=database_now(30)))
    with database.read() as session:
        stored = session.scalars(select(EventRow.at)).one()
    assert timedelta(seconds=25) < stored - now < timedelta(seconds=300)


def test_a_naive_time_is_refused(database: Database) -> None:
    with pytest.raises(Exception, match="no zone"), database.write() as session:
        tell(session, "x").at = datetime(2026, 1, 1)
        session.flush()


def test_events_page_in_order(database: Database) -> None:
    for index in range(5):
        with database.write() as session:
            tell(session, str(index))
    seen: list[str] = []
    cursor = 0
    while True:
        with database.read() as session:
            page = events_after(session, cursor, limit=2)
        if not page:
            break
        seen += [event.message for event in page]
        cursor = page[-1].id
    assert seen == ["0", "1", "2", "3", "4"]


def test_an_event_that_commits_late_is_not_lost(postgres_url: str, request: object) -> None:
    """The first writer takes the lower id and commits last: `id > cursor` would lose it."""
    from sqlalchemy import create_engine

    from quarterdeck.store.tables import Base

    name = "late_event"
    admin = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE IF EXISTS {name}"))
        connection.execute(text(f"CREATE DATABASE {name}"))
    admin.dispose()
    database = Database.open(postgres_url.replace("/postgres?", f"/{name}?"))
    Base.metadata.create_all(database.engine)
    slow = Session(database.engine)
    slow.begin()
    first = tell(slow, "first, late")
    slow.flush()
    with database.write() as session:
        second = tell(session, "second, early")
    assert first.id < second.id
    with database.read() as session:
        page = events_after(session, 0)
        assert [event.message for event in page] == [], "nothing above a running transaction"
    slow.commit()
    slow.close()
    with database.read() as session:
        page = events_after(session, 0)
    assert sorted(event.message for event in page) == ["first, late", "second, early"]
    database.close()


def test_concurrent_writers_and_a_follower_lose_no_event(database: Database) -> None:
    writers, each = 4, 40
    done = threading.Event()
    seen: list[str] = []
    errors: list[BaseException] = []

    def write(writer: int) -> None:
        try:
            for index in range(each):
                with database.write() as session:
                    tell(session, f"{writer}:{index}")
                    session.flush()
        except BaseException as error:
            errors.append(error)

    def follow() -> None:
        cursor = 0
        while True:
            last = done.is_set()
            with database.read() as session:
                page = events_after(session, cursor, limit=50)
            if page:
                cursor = page[-1].id
                seen.extend(event.message for event in page)
            elif last:
                return

    follower = threading.Thread(target=follow)
    follower.start()
    threads = [threading.Thread(target=write, args=(index,)) for index in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    done.set()
    follower.join(timeout=120)
    assert errors == []
    assert sorted(seen) == sorted(f"{w}:{i}" for w in range(writers) for i in range(each))


@pytest.mark.parametrize(
    "url", ["mysql://u@h/d", "postgresql+asyncpg://h/d", "sqlite://", "sqlite:///:memory:"]
)
def test_other_databases_are_refused_with_the_remedy(url: str) -> None:
    with pytest.raises(DatabaseUrlError, match=r"write (sqlite|postgresql)"):
        make_engine(url)
