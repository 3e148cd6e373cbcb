"""What was recorded: events, metrics and checkpoints, in pages; logs are in log_queries."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased

from quarterdeck.store.errors import NotFound
from quarterdeck.store.outbox import last_visible
from quarterdeck.store.paging import fetch_page
from quarterdeck.store.tables import CheckpointRow, EventRow, LogChunkRow, StepMetricsRow


def head(session: Session) -> tuple[int, int]:
    """The newest event and log chunk that readers may see: it changes when there is news."""
    return (
        last_visible(session, EventRow.transaction_id, EventRow.id),
        last_visible(session, LogChunkRow.transaction_id, LogChunkRow.id),
    )


def list_metrics(
    session: Session,
    job_id: str,
    *,
    after_step: int | None,
    cursor: str | None,
    limit: int,
) -> tuple[list[StepMetricsRow], str | None]:
    """Metrics by step; of a step that was done again only the latest epoch's."""
    other = aliased(StepMetricsRow)
    newest = (
        select(func.max(other.epoch))
        .where(other.job_id == job_id, other.step == StepMetricsRow.step)
        .scalar_subquery()
    )
    query = select(StepMetricsRow).where(
        StepMetricsRow.job_id == job_id, StepMetricsRow.epoch == newest
    )
    if after_step is not None:
        query = query.where(StepMetricsRow.step > after_step)
    keys = (StepMetricsRow.step,)
    return fetch_page(session, query, keys, descending=False, cursor=cursor, limit=limit)


def list_checkpoints(
    session: Session,
    *,
    project: str | None,
    job_id: str | None = None,
    cursor: str | None,
    limit: int,
) -> tuple[list[CheckpointRow], str | None]:
    """Checkpoints that are not deleted, newest first; of one beat the furthest step first."""
    query = select(CheckpointRow).where(CheckpointRow.state != "deleted")
    if project is not None:
        query = query.where(CheckpointRow.project == project)
    if job_id is not None:
        query = query.where(CheckpointRow.job_id == job_id)
    keys = (CheckpointRow.created_at, CheckpointRow.step, CheckpointRow.id)
    return fetch_page(session, query, keys, descending=True, cursor=cursor, limit=limit)


def get_checkpoint(session: Session, identity: str) -> CheckpointRow:
    """The checkpoint with this id. Raises NotFound."""
    found = session.get(CheckpointRow, identity)
    if found is None:
        raise NotFound("checkpoint", identity)
    return found


def newest_event(session: Session, subject_id: str) -> int:
    """The highest id of the subject's events, given out or not; 0 when there is none."""
    query = select(func.max(EventRow.id)).where(EventRow.subject_id == subject_id)
    return int(session.scalars(query).one() or 0)
