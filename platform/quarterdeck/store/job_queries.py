"""Jobs: found, listed, submitted, and the intents that people write on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from quarterdeck.lifecycle.job import JOB
from quarterdeck.store.array_rows import wish_members
from quarterdeck.store.columns import database_now
from quarterdeck.store.errors import NotFound
from quarterdeck.store.ids import new_id, next_ordinal
from quarterdeck.store.outbox import append_event
from quarterdeck.store.paging import fetch_page
from quarterdeck.store.tables import AssetVersionRow, JobEdgeRow, JobRow, RunRow

ENDED = JOB.final
"""Phases in which a job does not change any more."""


@dataclass(frozen=True)
class Edge:
    """What a new job waits for: the job `needs_id`, called `needs_name`, for its `field`, and
    how that must end (success, failure, any)."""

    needs_name: str
    needs_id: str | None
    field: str
    condition: str = "success"


@dataclass(frozen=True)
class JobSums:
    """What other tables know of a job."""

    attempts: int = 0
    productive_seconds: float = 0.0
    held_seconds: float = 0.0
    outputs: tuple[str, ...] = ()
    members: Mapping[str, int] = field(default_factory=dict)
    """Of an array: how many are in each phase."""


def get_job(session: Session, identity: str, project: str, *, lock: bool = False) -> JobRow:
    """The job with this id, else the newest called so in `project`. Raises NotFound."""
    by_id = select(JobRow).where(JobRow.id == identity)
    by_name = (
        select(JobRow)
        .where(JobRow.project == project, JobRow.name == identity)
        .order_by(JobRow.ordinal.desc(), JobRow.id.desc())
        .limit(1)
    )
    for query in (by_id, by_name):
        found = session.scalars(query.with_for_update() if lock else query).one_or_none()
        if found is not None:
            return found
    raise NotFound("job", identity)


def newest_job(session: Session, name: str, project: str) -> JobRow | None:
    """The newest job called `name`."""
    return session.scalars(
        select(JobRow)
        .where(JobRow.project == project, JobRow.name == name)
        .order_by(JobRow.ordinal.desc(), JobRow.id.desc())
        .limit(1)
    ).one_or_none()


def job_names(session: Session, project: str, limit: int = 1000) -> list[str]:
    """Names that jobs of the project have, for suggestions."""
    query = select(JobRow.name).where(JobRow.project == project).distinct().limit(limit)
    return list(session.scalars(query))


def list_jobs(
    session: Session,
    *,
    project: str | None,
    phase: str | None = None,
    kind: str | None = None,
    name: str | None = None,
    array: str | None = None,
    cursor: str | None,
    limit: int,
) -> tuple[list[JobRow], str | None]:
    """Jobs, newest first. An array stands for its members, unless those of one (`array`, by id)
    or those of one name are wanted."""
    query = select(JobRow)
    if array is not None or name is None:
        query = query.where(JobRow.array_id == array)
    for column, wanted in (
        (JobRow.project, project),
        (JobRow.phase, phase),
        (JobRow.kind, kind),
        (JobRow.name, name),
    ):
        if wanted is not None:
            query = query.where(column == wanted)
    keys = (JobRow.ordinal, JobRow.id)
    return fetch_page(session, query, keys, descending=True, cursor=cursor, limit=limit)


def sums_of(session: Session, job_ids: Sequence[str]) -> Mapping[str, JobSums]:
    """Attempts, goodput's seconds and outputs of each job."""
    seconds = {
        owner: (attempts, productive, held)
        for owner, attempts, productive, held in session.execute(
            select(
                RunRow.owner_id,
                func.count(),
                func.sum(RunRow.productive_seconds),
                func.sum(RunRow.held_seconds),
            )
            .where(RunRow.owner_id.in_(job_ids))
            .group_by(RunRow.owner_id)
        )
    }
    outputs: dict[str, list[str]] = {}
    for version in session.scalars(
        select(AssetVersionRow)
        .where(AssetVersionRow.job_id.in_(job_ids))
        .order_by(AssetVersionRow.kind, AssetVersionRow.name, AssetVersionRow.version)
    ):
        text = f"{version.kind}/{version.name}@{version.version}"
        outputs.setdefault(version.job_id or "", []).append(text)
    members: dict[str, dict[str, int]] = {}
    for array, phase, count in session.execute(
        select(JobRow.array_id, JobRow.phase, func.count())
        .where(JobRow.array_id.in_(job_ids))
        .group_by(JobRow.array_id, JobRow.phase)
    ):
        members.setdefault(array or "", {})[phase] = count
    return {
        job: JobSums(
            *seconds.get(job, (0, 0.0, 0.0)),
            outputs=tuple(outputs.get(job, ())),
            members=members.get(job, {}),
        )
        for job in job_ids
    }


def count_by_phase(session: Session) -> Mapping[str, int]:
    """How many jobs are in each phase that is not final."""
    query = (
        select(JobRow.phase, func.count())
        .where(JobRow.phase.not_in(sorted(ENDED)), JobRow.array_size.is_(None))
        .group_by(JobRow.phase)
    )
    return {row.phase: row[1] for row in session.execute(query)}


def add_job(
    session: Session,
    *,
    name: str,
    project: str,
    kind: str,
    spec: dict[str, Any],
    spec_digest: str,
    queue: str,
    priority: int,
    ranks: int | None,
    layout: dict[str, Any] | None,
    smaller_layouts: list[Any] | None = None,
    edges: Iterable[Edge],
    actor: str,
    retry_of: str | None = None,
) -> JobRow:
    """Insert a job that waits for admission, what it needs, and the event of its submission."""
    row = JobRow(
        id=new_id("job"), name=name, project=project, kind=kind, spec=spec,
        spec_digest=spec_digest, queue=queue, priority=priority, ranks=ranks, layout=layout,
        smaller_layouts=smaller_layouts,
        ordinal=next_ordinal(), retry_of=retry_of, edges_bound=True,
        message="submitted, not looked at yet",
    )  # fmt: skip
    session.add(row)
    session.flush()
    for edge in edges:
        session.add(
            JobEdgeRow(
                job_id=row.id,
                needs_name=edge.needs_name,
                needs_id=edge.needs_id,
                field=edge.field,
                condition=edge.condition,
            )
        )
    session.flush()
    _tell(session, row, "job.submitted", f"{kind} job {name} submitted", actor)
    return row


def edges_of(session: Session, job_id: str) -> list[JobEdgeRow]:
    """What the job waits for."""
    return list(session.scalars(select(JobEdgeRow).where(JobEdgeRow.job_id == job_id)))


def wish(session: Session, row: JobRow, desired: str, *, actor: str) -> None:
    """Write the intent `run`, `suspend` or `cancel`; the same intent twice changes nothing.

    The caller holds the row's lock (`get_job(lock=True)`).
    """
    if row.desired == desired:
        return
    row.desired = desired
    row.version = JobRow.version + 1
    row.due_at = database_now()
    session.flush()
    session.refresh(row)
    if row.array_size is not None:
        wish_members(session, row.id, desired)
    _tell(session, row, "job.desired", f"{actor or 'somebody'} wants it to {desired}", actor)


def _tell(session: Session, row: JobRow, type: str, message: str, actor: str) -> None:
    append_event(
        session,
        type=type,
        subject=f"job/{row.name}",
        subject_id=row.id,
        project=row.project,
        message=message,
        actor=actor,
        data={"kind": row.kind, "desired": row.desired},
    )
