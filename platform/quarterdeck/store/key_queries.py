"""Keys: looked up by their SHA-256 on every request, listed, added, revoked."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from quarterdeck.store.columns import database_now
from quarterdeck.store.errors import NotFound
from quarterdeck.store.ids import new_id
from quarterdeck.store.outbox import append_event
from quarterdeck.store.paging import fetch_page
from quarterdeck.store.tables import KeyRow

NO_PROJECT = "default"
"""Where events of installation-wide things are filed."""


def find_key(session: Session, sha256: str) -> KeyRow | None:
    """The valid key with this digest; None when it is unknown, expired or revoked."""
    return session.scalars(
        select(KeyRow).where(
            KeyRow.sha256 == sha256,
            KeyRow.revoked_at.is_(None),
            or_(KeyRow.expires_at.is_(None), KeyRow.expires_at > database_now()),
        )
    ).one_or_none()


def key_known(session: Session, sha256: str) -> bool:
    """Whether a key with this digest was ever made, however it ended."""
    return session.scalar(select(KeyRow.id).where(KeyRow.sha256 == sha256)) is not None


def list_keys(
    session: Session, project: str | None, *, cursor: str | None, limit: int
) -> tuple[list[KeyRow], str | None]:
    """Keys that were not made for runs, oldest first; of one project, or of all (None)."""
    query = select(KeyRow).where(KeyRow.access != "run")
    if project is not None:
        query = query.where(KeyRow.project == project)
    keys = (KeyRow.created_at, KeyRow.id)
    return fetch_page(session, query, keys, descending=False, cursor=cursor, limit=limit)


def usable_keys(session: Session) -> list[KeyRow]:
    """Every valid key of a person, as gateways need them."""
    return list(
        session.scalars(
            select(KeyRow)
            .where(
                KeyRow.access.in_(("viewer", "operator", "admin")),
                KeyRow.revoked_at.is_(None),
                or_(KeyRow.expires_at.is_(None), KeyRow.expires_at > database_now()),
            )
            .order_by(KeyRow.id)
        )
    )


def add_key(
    session: Session,
    *,
    name: str,
    access: str,
    sha256: str,
    prefix: str,
    project: str | None = None,
    cluster: str | None = None,
    expires_at: datetime | None = None,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
    streams: int | None = None,
    actor: str = "",
) -> KeyRow:
    """Store a new key by its digest, with the event that tells of it."""
    row = KeyRow(
        id=new_id("key"), name=name, access=access, sha256=sha256, prefix=prefix,
        project=project, cluster=cluster, expires_at=expires_at,
        requests_per_minute=requests_per_minute, tokens_per_minute=tokens_per_minute,
        streams=streams,
    )  # fmt: skip
    session.add(row)
    session.flush()
    _tell(session, row, "key.created", f"key {name} with access {access} created", actor)
    return row


def revoke_key(session: Session, row: KeyRow, *, actor: str) -> None:
    """End a key at once; ending an ended one changes nothing."""
    if row.revoked_at is not None:
        return
    row.revoked_at = database_now()
    _tell(session, row, "key.revoked", f"key {row.name} revoked", actor)


def _tell(session: Session, row: KeyRow, type: str, message: str, actor: str) -> None:
    append_event(
        session,
        type=type,
        subject=f"key/{row.name}",
        subject_id=row.id,
        project=row.project or NO_PROJECT,
        message=message,
        actor=actor,
        data={"access": row.access},
    )


def get_key(session: Session, identity: str) -> KeyRow:
    """The key with this id, made for no run. Raises NotFound."""
    row = session.get(KeyRow, identity, with_for_update=True)
    if row is None or row.access == "run":
        raise NotFound("key", identity)
    return row
