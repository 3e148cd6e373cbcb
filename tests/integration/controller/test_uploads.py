"""Uploads go when their jobs have long ended, and never from under somebody who wants them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from quarterdeck.api.uploads import hold_upload
from quarterdeck.artifacts import ArtifactStore, path_of_upload
from quarterdeck.controller.uploads import UploadRetention
from quarterdeck.store.columns import database_now
from quarterdeck.store.tables import JobRow, UploadRow
from quarterdeck.store.uploads import CLAIM_S, UploadKey, claim_upload, touch
from tests.integration.controller.conftest import Platform, command

DAY = 86400.0


class Uploads:
    """The artifact store of a platform; what `before` holds happens before a deletion."""

    def __init__(self, platform: Platform, folder: Path) -> None:
        self.platform = platform
        self.database = platform.database
        self.store = ArtifactStore(str(folder))
        self.before: list[Callable[[], object]] = []
        self.sizes = self.store.sizes
        self.delete_unfinished = self.store.delete_unfinished
        self.put_bytes = self.store.put_bytes

    def delete_prefix(self, path: str) -> object:
        if self.before:
            self.before.pop(0)()
        return self.store.delete_prefix(path)

    def put(self, text: str) -> str:
        digest = hashlib.sha256(text.encode()).hexdigest()
        self.store.put_bytes(text.encode(), path_of_upload("default", digest))
        return digest

    def held(self, digest: str) -> bool:
        return hold_upload(self.database, self.store, "default", digest) is not None

    def idle(self, days: float = 30) -> None:
        with self.database.write() as session:
            session.execute(update(UploadRow).values(touched_at=database_now(-days * DAY)))

    def rows(self) -> set[str]:
        with self.database.read() as session:
            return set(session.scalars(select(UploadRow.digest)))

    def files(self) -> set[str]:
        return {Path(name).name for name in self.store.sizes("uploads")}

    def retention(self, **options: Any) -> UploadRetention:
        return UploadRetention(self.database, self, **{"keep": 14 * DAY, **options})

    def job(self, digest: str, diff: str | None = None) -> str:
        upload = {"digest": digest, "size": 1, "diff": diff}
        return self.platform.submit(command(f"job-{digest[:8]}", workdir=upload))

    def end(self, job: str, days: float) -> None:
        with self.database.write() as session:
            ended = {"phase": "failed", "ended_at": database_now(-days * DAY)}
            session.execute(update(JobRow).where(JobRow.id == job).values(**ended))


@pytest.fixture
def uploads(platform: Platform, tmp_path: Path) -> Uploads:
    return Uploads(platform, tmp_path / "artifacts")


def test_what_no_job_needs_any_more_goes(uploads: Uploads) -> None:
    live, recent, old, diff, none, local = (uploads.put(text) for text in "abcdef")
    assert all(map(uploads.held, (live, recent, old, diff, none)))
    uploads.platform.submit(command("elsewhere", workdir="/srv/code"))
    uploads.job(live)
    uploads.end(uploads.job(live), 30)
    uploads.end(uploads.job(recent), 13)
    uploads.end(uploads.job(old, diff), 15)
    assert uploads.retention().tick() == 0  # all were wanted just now
    assert local in uploads.rows()  # a file that nobody knew has its grace period too
    uploads.idle()
    assert uploads.retention(keep=None).tick() == 2
    assert uploads.retention().tick() == 2
    assert uploads.rows() == uploads.files() == {live, recent}
    assert uploads.retention().tick() == 0


def test_rows_without_files_and_unfinished_writes_go_too(uploads: Uploads, tmp_path: Path) -> None:
    digest = uploads.put("a")
    uploads.held(digest)
    uploads.store.delete_prefix(path_of_upload("default", digest))
    uploads.idle()
    left, new = (tmp_path / f"artifacts/uploads/default/.partial-{name}" for name in "ab")
    for file in (left, new):
        file.write_text("half")
    os.utime(left, (0, 0))
    assert uploads.retention().tick() == 1
    assert uploads.rows() == set() and not left.exists() and new.exists()


def test_who_comes_first_wins(uploads: Uploads) -> None:
    """A submission that touches between the controller's look and its claim keeps the file; one
    that comes after the claim is told that there is none, and sends it again later."""
    digest = uploads.put("a")
    key = UploadKey("default", digest)
    uploads.retention().tick()
    uploads.idle()
    assert uploads.held(digest)
    with uploads.database.write() as session:
        assert not claim_upload(session, key, "claim-1")
    uploads.idle()
    during: list[bool] = []
    uploads.before = [lambda: during.append(uploads.held(digest))]
    assert uploads.retention().tick() == 1
    assert during == [False] and uploads.files() == uploads.rows() == set()
    assert uploads.put("a") == digest and uploads.held(digest)


def test_two_controllers_and_one_that_was_killed(uploads: Uploads) -> None:
    class Killed(BaseException):
        pass

    def die() -> None:
        raise Killed

    digest = uploads.put("a")
    key = UploadKey("default", digest)
    uploads.retention().tick()
    uploads.idle()
    second: list[int] = []
    uploads.before = [lambda: second.append(uploads.retention().tick()), die]
    assert uploads.retention().tick() == 1
    assert second == [0]
    uploads.put("a")
    uploads.retention().tick()
    uploads.idle()
    uploads.before = [die]
    with pytest.raises(Killed):
        uploads.retention().tick()
    assert not uploads.held(digest) and uploads.retention().tick() == 0
    with uploads.database.write() as session:
        session.execute(update(UploadRow).values(claim_until=database_now(-1)))
    assert uploads.held(digest)  # whoever wants it takes the dead one's claim away
    uploads.idle()
    with uploads.database.write() as session:
        assert claim_upload(session, key, "claim-2") and not touch(session, key)
        session.execute(update(UploadRow).values(claim_until=database_now(-1)))
    assert uploads.retention().tick() == 1


def test_a_controller_that_slept_after_its_claim_deletes_nothing(uploads: Uploads) -> None:
    digest = uploads.put("a")
    uploads.retention().tick()
    uploads.idle()
    times = iter([0.0, CLAIM_S])
    assert uploads.retention(clock=lambda: next(times)).tick() == 0
    assert uploads.files() == {digest}


def test_a_file_that_resists_is_tried_again(uploads: Uploads) -> None:
    def refuse() -> None:
        raise OSError("read-only")

    uploads.put("a")
    uploads.retention().tick()
    uploads.idle()
    uploads.before = [refuse]
    assert uploads.retention().tick() == 0
    with uploads.database.write() as session:
        session.execute(update(UploadRow).values(claim_until=database_now(-1)))
    assert uploads.retention().tick() == 1
