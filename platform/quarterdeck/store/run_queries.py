"""Runs: found, listed, and what a claim answers with."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from quarterdeck.store.errors import NotFound
from quarterdeck.store.paging import fetch_page
from quarterdeck.store.tables import CheckpointRow, EventRow, RunRow

_NEWEST = 100
"""Runs of an owner among which that of a run is looked for: it is one of the last."""


def get_run(session: Session, identity: str) -> RunRow:
    """The run with this id. Raises NotFound."""
    found = session.get(RunRow, identity)
    if found is None:
        raise NotFound("run", identity)
    return found


def list_runs(
    session: Session,
    *,
    project: str | None,
    owner_id: str | None = None,
    cursor: str | None,
    limit: int,
) -> tuple[list[RunRow], str | None]:
    """Runs, newest first."""
    query = select(RunRow)
    if project is not None:
        query = query.where(RunRow.project == project)
    if owner_id is not None:
        query = query.where(RunRow.owner_id == owner_id)
    keys = (RunRow.created_at, RunRow.id)
    return fetch_page(session, query, keys, descending=True, cursor=cursor, limit=limit)


def newest_run(session: Session, owner_id: str) -> RunRow | None:
    """The owner's run of the highest epoch."""
    query = select(RunRow).where(RunRow.owner_id == owner_id).order_by(RunRow.epoch.desc())
    return session.scalars(query.limit(1)).one_or_none()


def placement_reasons(session: Session, run: RunRow) -> dict[str, str]:
    """Why a run was placed on its cluster and on none of the others, by cluster; empty where there
    was no choice."""
    found = session.scalars(
        select(EventRow.data)
        .where(EventRow.subject_id == run.owner_id, EventRow.type == "run.assigned")
        .order_by(EventRow.id.desc())
        .limit(_NEWEST)
    )
    for data in found:
        if data.get("run_id") == run.id:
            return dict(data.get("clusters") or {})
    return {}


def resume_checkpoint(session: Session, run: RunRow) -> CheckpointRow | None:
    """The checkpoint that a run starts from, as its controller chose it."""
    if run.resume_checkpoint is None:
        return None
    return session.get(CheckpointRow, run.resume_checkpoint)
