"""`db backup` while the platform runs, `db restore` when it does not, and what both refuse."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from quarterdeck.processes.db import backup_database, restore_database
from quarterdeck.processes.failures import ProcessFailed
from quarterdeck.processes.home import Home
from quarterdeck.processes.settings import Settings
from quarterdeck.store import migrate
from quarterdeck.store.access_queries import add_project, project_names
from quarterdeck.store.sessions import Database
from quarterdeck.store.settings import generation
from quarterdeck.store.tables import CheckpointRow, JobRow
from tests.conftest import new_postgres_database

pytestmark = pytest.mark.usefixtures("postgres_tools")


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    """An installation with one project, `yesterday`; nothing runs."""
    migrate.upgrade(database_url)
    made = Settings(Home(tmp_path / "home"), database_url, "memory://", {})
    add(made, "yesterday")
    return made


def add(settings: Settings, *names: str) -> None:
    database = Database.open(settings.database_url)
    with database.write() as session:
        for name in names:
            add_project(session, name, actor="test")
    database.close()


def look(settings: Settings) -> tuple[list[str], int]:
    database = Database.open(settings.database_url)
    with database.read() as session:
        found = project_names(session), generation(session)
    database.close()
    return found


def silent(text: str) -> None:
    return None


def test_there_and_back_and_what_was_there_is_kept(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "one.backup"
    assert str(file) in backup_database(settings, file)
    assert file.stat().st_mode & 0o077 == 0
    add(settings, "today")
    told: list[str] = []
    assert restore_database(settings, file, told.append).endswith("generation 1")
    assert look(settings) == (["yesterday"], 1)
    kept = Path(told[0].removeprefix("what was there is kept in "))
    assert restore_database(settings, kept, silent).endswith("generation 2")
    assert look(settings) == (["today", "yesterday"], 2)
    restore_database(settings, file, silent)
    assert look(settings) == (["yesterday"], 3), "a generation never comes again"
    assert migrate.differences(settings.database_url) == []
    assert migrate.upgrade(settings.database_url) is None


def test_a_backup_in_the_middle_of_writes_is_one_moment(settings: Settings, tmp_path: Path) -> None:
    stop = threading.Event()
    database = Database.open(settings.database_url)

    def write() -> None:
        number = 0
        while not stop.is_set():
            with database.write() as session:  # always in pairs
                add_project(session, f"a{number}", actor="test")
                add_project(session, f"b{number}", actor="test")
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(3):
            backup_database(settings, tmp_path / f"{number}.backup")
    finally:
        stop.set()
        writer.join()
        database.close()
    for number in range(3):
        restore_database(settings, tmp_path / f"{number}.backup", silent)
        names = look(settings)[0]
        assert sorted(name[1:] for name in names if name[0] == "a") == sorted(
            name[1:] for name in names if name[0] == "b"
        )


def test_what_is_no_backup_changes_nothing(settings: Settings, tmp_path: Path) -> None:
    good, newer = tmp_path / "good", tmp_path / "newer"
    backup_database(settings, good)
    database = Database.open(settings.database_url)
    set_revision(database, "9999")
    database.close()
    backup_database(settings, newer)
    database = Database.open(settings.database_url)
    set_revision(database, migrate.head_revision())
    database.close()
    add(settings, "today")
    damaged, text, empty = (tmp_path / name for name in ("damaged", "text", "empty"))
    damaged.write_bytes(good.read_bytes()[:3000])
    text.write_text("hello")
    empty.touch()
    for wrong, said in (
        (newer, "9999"),
        (damaged, "damaged|no backup|pg_restore"),
        (text, "no backup|pg_restore"),
        (empty, "no backup|pg_restore"),
        (tmp_path / "none", "does not exist"),
    ):
        with pytest.raises(ProcessFailed, match=said):
            restore_database(settings, wrong, silent)
        assert look(settings) == (["today", "yesterday"], 0), wrong.name
    with pytest.raises(ProcessFailed, match="cannot be created"):
        backup_database(settings, good)


def set_revision(database: Database, revision: str) -> None:
    with database.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{revision}'")


def test_a_database_in_use_is_not_replaced(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "one.backup"
    backup_database(settings, file)
    program = (
        "import sys, time\n"
        "from quarterdeck.store.sessions import Database\n"
        "from quarterdeck.store.settings import generation\n"
        f"database = Database.open({settings.database_url!r})\n"
        "with database.read() as session:\n"
        "    generation(session)\n"
        "    print('open', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    user = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert user.stdout is not None and user.stdout.readline() == "open\n"
        with pytest.raises(ProcessFailed, match=r"in use by .*pid"):
            restore_database(settings, file, silent)
        said: list[str] = []

        def tell(text: str) -> None:
            said.append(text)
            if text.startswith("waiting"):
                user.communicate("")

        done = restore_database(settings, file, tell, seconds=60)
    finally:
        user.kill()
        user.wait()
    assert done.endswith("generation 1")
    assert [text.partition(":")[0] for text in said if "in use by" in text] == ["waiting"]


def test_a_damaged_database_is_replaced_and_kept(tmp_path: Path) -> None:
    settings = Settings(Home(tmp_path), f"sqlite:///{tmp_path}/quarterdeck.db", "memory://", {})
    migrate.upgrade(settings.database_url)
    add(settings, "yesterday")
    backup_database(settings, tmp_path / "one.backup")
    (tmp_path / "quarterdeck.db").write_bytes(b"garbage" * 1000)
    told: list[str] = []
    restore_database(settings, tmp_path / "one.backup", told.append)
    assert look(settings)[0] == ["yesterday"]
    assert Path(told[0].rpartition(" ")[2]).read_bytes().startswith(b"garbage")


def test_a_restore_that_was_cut_off_keeps_everybody_out(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quarterdeck.store import backups

    settings = Settings(Home(tmp_path), new_postgres_database(postgres_url), "memory://", {})
    migrate.upgrade(settings.database_url)
    add(settings, "yesterday")
    file = tmp_path / "one.backup"
    backup_database(settings, file)
    restore_database(settings, file, silent)
    run = backups._run

    def cut_off(tool: str, arguments: Any, *rest: Any) -> str:
        if "--single-transaction" in arguments:
            raise backups.BackupError("no more power")
        return run(tool, arguments, *rest)

    monkeypatch.setattr(backups, "_run", cut_off)
    with pytest.raises(ProcessFailed, match="restore again; what was there is in"):
        restore_database(settings, file, silent)
    with pytest.raises(migrate.RestoreUnfinished):
        migrate.upgrade(settings.database_url)
    monkeypatch.setattr(backups, "_run", run)
    restore_database(settings, file, silent)
    assert look(settings) == (["yesterday"], 2), "the generation was not forgotten"


def test_tools_that_are_missing_are_named(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(Home(tmp_path), new_postgres_database(postgres_url), "memory://", {})
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProcessFailed, match="pg_dump is not on PATH"):
        backup_database(settings, tmp_path / "one.backup")
    assert not (tmp_path / "one.backup").exists()


def test_a_backup_has_a_place_by_itself(tmp_path: Path) -> None:
    settings = Settings(Home(tmp_path), f"sqlite:///{tmp_path}/quarterdeck.db", "memory://", {})
    migrate.upgrade(settings.database_url)
    file = Path(backup_database(settings, None).partition(":")[0])
    assert file.parent == tmp_path / "backups"
    with closing(sqlite3.connect(file)) as copy:
        assert copy.execute("SELECT count(*) FROM jobs").fetchone() == (0,)


def test_checkpoints_whose_files_are_gone_are_forgotten(tmp_path: Path) -> None:
    artifacts = tmp_path / "artifacts"
    url = f"sqlite:///{tmp_path}/quarterdeck.db"
    settings = Settings(Home(tmp_path), url, artifacts.as_uri(), {})
    migrate.upgrade(url)
    add(settings, "default")
    database = Database.open(url)
    with database.write() as session:
        job = JobRow(
            id="job-1", name="j", project="default", kind="command", spec={}, ordinal=1,
        )  # fmt: skip
        session.add(job)
        session.flush()
        for step in (1, 2):
            folder = artifacts / "checkpoints" / "job-1" / "1" / str(step)
            folder.mkdir(parents=True)
            (folder / "model").write_bytes(b"weights")
            files = [{"path": "model", "size": 7, "sha256": "0" * 64}]
            manifest = {"step": step, "epoch": 1, "uri": folder.as_uri(), "files": files}
            session.add(
                CheckpointRow(
                    id=f"c{step}", job_id="job-1", job_name="j", project="default", run_id="r",
                    epoch=1, step=step, uri=folder.as_uri(), size=7, manifest=manifest,
                )
            )  # fmt: skip
    database.close()
    backup_database(settings, tmp_path / "one.backup")
    files_of = artifacts / "checkpoints" / "job-1" / "1"
    (files_of / "1" / "model").unlink()
    told: list[str] = []
    restore_database(settings, tmp_path / "one.backup", told.append)
    assert told[0].startswith("1 checkpoints that the backup knew")
    assert states(url) == {"c1": "deleted", "c2": "registered"}

    (files_of / "2" / "model").unlink()
    restore_database(settings, tmp_path / "one.backup", told.append)
    assert states(url) == {"c1": "deleted", "c2": "deleted"}

    # An empty store is another one: its disk is not mounted.
    shutil.rmtree(artifacts)
    artifacts.mkdir()
    with pytest.raises(ProcessFailed, match=r"generation 3, but .* knows 2 checkpoints"):
        restore_database(settings, tmp_path / "one.backup", told.append)
    assert states(url) == {"c1": "registered", "c2": "registered"}
    restore_database(settings, tmp_path / "one.backup", told.append, forget_all=True)
    assert states(url) == {"c1": "deleted", "c2": "deleted"}


def states(url: str) -> dict[str, str]:
    database = Database.open(url)
    with database.read() as session:
        found = {row.id: row.state for row in session.scalars(select(CheckpointRow))}
    database.close()
    return found
