"""Changes of phase: the only code that writes `phase`, always with its event.

Only controllers call this. Each function compares and swaps the row and appends the event in
the caller's transaction; it raises StaleRow when the row changed since it was read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import Session

from quarterdeck.lifecycle.job import JOB, JobEvent
from quarterdeck.lifecycle.machine import Transition
from quarterdeck.lifecycle.run import ENDED, RunEvent, machine_of
from quarterdeck.lifecycle.service import SERVICE, ServiceEvent
from quarterdeck.store.columns import database_now
from quarterdeck.store.leases import swap, swap_all
from quarterdeck.store.outbox import Fact, append_event, append_events
from quarterdeck.store.tables import JobRow, KeyRow, RunRow, ServiceRow
from quarterdeck.store.text import clean

ACTOR = "controller"
KEY_GRACE_S = 600.0
"""How long an ended run's key still takes replayed beats."""


def move_job(
    session: Session,
    job: JobRow,
    event: JobEvent,
    *,
    reason: str | None = None,
    message: str = "",
    lease_id: str | None = None,
    values: dict[str, Any] | None = None,
) -> None:
    """Apply `event` to a job. Raises IllegalTransition or StaleRow, with nothing written."""
    step = JOB.step(job.phase, event)
    changes = _changes(job, step, reason, message, values or {})
    swap(session, job, changes, lease_id=lease_id)
    append_event(session, **vars(_fact(job, step, reason, message, job.epoch)))


@dataclass(frozen=True)
class JobMove:
    """One of several changes of phase that are written together."""

    job: JobRow
    event: JobEvent
    message: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)


def move_jobs(session: Session, moves: Sequence[JobMove], *, lease_id: str) -> None:
    """`move_job` of several jobs in a few statements: all of them or, where it raises
    IllegalTransition or StaleRow, none once the caller's savepoint is rolled back. The rows in
    memory stay as they were read."""
    steps = [JOB.step(move.job.phase, move.event) for move in moves]
    both = list(zip(moves, steps, strict=True))
    epochs = [move.values.get("epoch", move.job.epoch) for move in moves]
    swap_all(
        session,
        [(move.job, _changes(move.job, step, None, move.message, move.values))
         for move, step in both],
        lease_id=lease_id,
    )  # fmt: skip
    facts = [
        _fact(move.job, step, None, move.message, epoch)
        for (move, step), epoch in zip(both, epochs, strict=True)
    ]
    append_events(session, facts)


def _changes(
    job: JobRow,
    step: Transition[JobEvent],
    reason: str | None,
    message: str,
    values: Mapping[str, Any],
) -> dict[str, Any]:
    changes: dict[str, Any] = {
        "phase": step.after,
        "reason": reason or step.reason,
        "message": clean(message),
        "facts": [],
        **values,
    }
    if step.after == "running" and job.started_at is None:
        changes["started_at"] = database_now()
    if step.after in JOB.final:
        changes["ended_at"] = database_now()
        changes["eta_seconds"] = None
    if step.after != "queued":
        changes["starts_at"] = None
    return changes


def _fact(
    job: JobRow, step: Transition[JobEvent], reason: str | None, message: str, epoch: int
) -> Fact:
    why = reason or step.reason
    return Fact(
        type="job.phase",
        subject=f"job/{job.name}",
        subject_id=job.id,
        project=job.project,
        message=f"{step.before} → {step.after}: {why}" + (f" ({message})" if message else ""),
        actor=ACTOR,
        data={"from": step.before, "to": step.after, "reason": why, "epoch": epoch},
    )


def move_run(
    session: Session,
    run: RunRow,
    event: RunEvent,
    *,
    reason: str | None = None,
    message: str = "",
    lease_id: str | None = None,
    values: dict[str, Any] | None = None,
    unless_heard: bool = False,
) -> None:
    """Apply `event` to a run; an end starts the grace period of its key.

    `unless_heard` drops the change (StaleRow) if a claim or a beat came since the row was read.
    Raises IllegalTransition or StaleRow, with nothing written.
    """
    step = machine_of(run.owner_type).step(run.phase, event)
    why = reason or step.reason
    changes: dict[str, Any] = {
        "phase": step.after,
        "reason": why,
        "message": clean(message),
        **(values or {}),
    }
    if step.after in ("running", "loading") and run.started_at is None:
        changes["started_at"] = database_now()
    if step.after in ENDED:
        changes["ended_at"] = database_now()
    if "unhealthy" in (step.before, step.after):
        changes["unhealthy_since"] = database_now() if step.after == "unhealthy" else None
    extra = []
    if unless_heard:
        extra.append(RunRow.beat_seq == run.beat_seq)
        extra.append(RunRow.claimed_by.is_not_distinct_from(run.claimed_by))
        extra.append(RunRow.last_beat_at.is_not_distinct_from(run.last_beat_at))
    swap(session, run, changes, lease_id=lease_id, extra=extra)
    if step.after in ENDED:
        session.execute(
            update(KeyRow)
            .where(KeyRow.run_id == run.id, KeyRow.revoked_at.is_(None))
            .values(expires_at=database_now(KEY_GRACE_S))
            .execution_options(synchronize_session=False)
        )
    append_event(
        session,
        type="run.phase",
        subject=f"{run.owner_type}/{run.owner_name}",
        subject_id=run.owner_id,
        project=run.project,
        message=f"run {run.epoch} {step.before} → {step.after}: {why}"
        + (f" ({message})" if message else ""),
        actor=ACTOR,
        data={
            "run_id": run.id,
            "epoch": run.epoch,
            "from": step.before,
            "to": step.after,
            "reason": why,
        },
    )


def move_service(
    session: Session,
    service: ServiceRow,
    event: ServiceEvent,
    *,
    reason: str | None = None,
    message: str = "",
    lease_id: str | None = None,
    values: dict[str, Any] | None = None,
) -> None:
    """Apply `event` to a service. Raises IllegalTransition or StaleRow, with nothing written."""
    step = SERVICE.step(service.phase, event)
    why = reason or step.reason
    changes: dict[str, Any] = {
        "phase": step.after,
        "reason": why,
        "message": clean(message),
        **(values or {}),
    }
    if step.after == "stopped":
        changes["ended_at"] = database_now()
    swap(session, service, changes, lease_id=lease_id)
    append_event(
        session,
        type="service.phase",
        subject=f"service/{service.name}",
        subject_id=service.id,
        project=service.project,
        message=f"{step.before} → {step.after}: {why}" + (f" ({message})" if message else ""),
        actor=ACTOR,
        data={"from": step.before, "to": step.after, "reason": why},
    )
