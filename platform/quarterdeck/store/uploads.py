"""Uploads: when each was wanted last, which jobs name it, and who is deleting it.

Whoever wants an upload touches its row first and looks for the file then; a controller claims
the row before it deletes the file. So what was found after a touch stays for the grace period.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, delete, func, or_, select, update
from sqlalchemy.orm import Session

from quarterdeck.lifecycle.uploads import GRACE_S, KeptUpload
from quarterdeck.store.columns import database_now
from quarterdeck.store.inserts import insert_ignoring
from quarterdeck.store.job_queries import ENDED
from quarterdeck.store.tables import JobRow, UploadRow

CLAIM_S = 60.0
_KEYS = ("project", "digest")


@dataclass(frozen=True)
class UploadKey:
    """An upload's name."""

    project: str
    digest: str


def touch(session: Session, key: UploadKey) -> bool:
    """Keep an upload for the grace period from now; False while a controller deletes it."""
    note_uploads(session, [key])
    touched = session.scalars(
        update(UploadRow)
        .where(_is(key), _free())
        .values(touched_at=database_now(), claim_id=None, claim_until=None)
        .returning(UploadRow.digest)
        .execution_options(synchronize_session=False)
    ).first()
    return touched is not None


def note_uploads(session: Session, keys: Iterable[UploadKey]) -> None:
    """Begin the grace period of uploads that have no row."""
    rows = [{"project": key.project, "digest": key.digest} for key in keys]
    if rows:
        session.execute(insert_ignoring(session, UploadRow, _KEYS), rows)


def known_uploads(session: Session) -> set[UploadKey]:
    """Every upload with a row."""
    rows = session.execute(select(UploadRow.project, UploadRow.digest))
    return {UploadKey(project, digest) for project, digest in rows}


def idle_uploads(session: Session) -> tuple[Sequence[KeptUpload], datetime]:
    """Uploads that nobody wanted for the grace period, with what their jobs are; and the time."""
    now: datetime = session.execute(select(database_now())).scalar_one()
    rows = session.scalars(
        select(UploadRow).where(_idle(), _free()).order_by(UploadRow.touched_at)
    ).all()
    if not rows:
        return [], now
    live: set[UploadKey] = set()
    ended: dict[UploadKey, datetime] = {}
    for name in ("digest", "diff"):
        named = (
            select(
                JobRow.project,
                JobRow.spec["workdir"][name].as_string().label("digest"),
                JobRow.phase.not_in(sorted(ENDED)).label("open"),
                JobRow.ended_at,
            )
            .where(JobRow.kind == "command")
            .subquery()
            .c
        )
        groups = (named.project, named.digest, named.open)
        query = (
            select(*groups, func.max(named.ended_at))
            .where(named.digest.is_not(None))
            .group_by(*groups)
        )
        for project, found, is_open, at in session.execute(query):
            key = UploadKey(project, found)
            if is_open or at is None:
                live.add(key)
            else:
                ended[key] = max(at, ended.get(key, at))
    return [
        KeptUpload(
            row.project, row.digest, row.touched_at, UploadKey(row.project, row.digest) in live,
            ended.get(UploadKey(row.project, row.digest)),
        )
        for row in rows
    ], now  # fmt: skip


def claim_upload(session: Session, key: UploadKey, claim_id: str) -> bool:
    """Whether the caller may delete it: nobody has wanted it meanwhile, nobody deletes it."""
    claimed = session.scalars(
        update(UploadRow)
        .where(_is(key), _idle(), _free())
        .values(claim_id=claim_id, claim_until=database_now(CLAIM_S))
        .returning(UploadRow.digest)
        .execution_options(synchronize_session=False)
    ).first()
    return claimed is not None


def forget_upload(session: Session, key: UploadKey, claim_id: str) -> bool:
    """Its file is gone; False when the claim had run out and somebody wants it again."""
    gone = session.scalars(
        delete(UploadRow)
        .where(_is(key), UploadRow.claim_id == claim_id)
        .returning(UploadRow.digest)
        .execution_options(synchronize_session=False)
    ).first()
    return gone is not None


def _is(key: UploadKey) -> ColumnElement[bool]:
    return (UploadRow.project == key.project) & (UploadRow.digest == key.digest)


def _idle() -> ColumnElement[bool]:
    return UploadRow.touched_at < database_now(-GRACE_S)


def _free() -> ColumnElement[bool]:
    return or_(UploadRow.claim_until.is_(None), UploadRow.claim_until < database_now())
