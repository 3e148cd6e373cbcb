"""Runs on fewer ranks than their job's gang: what changed, what is watched, what is ordered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from quarterdeck.lifecycle.job import JobEvent
from quarterdeck.lifecycle.observe import RunDecision
from quarterdeck.lifecycle.run import RunEvent
from quarterdeck.store.columns import database_now
from quarterdeck.store.leases import claim_rows, swap
from quarterdeck.store.outbox import append_event
from quarterdeck.store.run_watch import apply_run, run_as_read
from quarterdeck.store.tables import JobRow, RunRow
from quarterdeck.store.transitions import ACTOR, move_job

LEASE_S = 15.0
REGROW = "regrow"


@dataclass(frozen=True)
class Shrunk:
    """A run on fewer ranks than its job's gang, and when the job last regrew."""

    run: RunRow
    job: JobRow
    regrown_at: datetime | None


def claim_shrunk(session: Session, lease_id: str, limit: int = 200) -> list[str]:
    """Lease the working runs that have fewer ranks than their job's gang."""
    working = [RunRow.phase == "running", RunRow.full_ranks.is_not(None)]
    return claim_rows(session, RunRow, working, lease_id=lease_id, seconds=LEASE_S, limit=limit)


def shrunk_runs(session: Session, ids: Sequence[str]) -> list[Shrunk]:
    """The leased runs with their jobs, in the order of jobs."""
    rows = session.execute(
        select(RunRow, JobRow)
        .join(JobRow, JobRow.id == RunRow.owner_id)
        .where(RunRow.id.in_(ids), JobRow.epoch == RunRow.epoch)
        .where(JobRow.phase == "running", JobRow.desired == "run")
        .order_by(JobRow.priority.desc(), JobRow.ordinal)
    ).all()
    regrown = dict(
        session.execute(
            select(RunRow.owner_id, func.max(RunRow.ended_at))
            .where(RunRow.owner_id.in_([job.id for _, job in rows]), RunRow.stopping_for == REGROW)
            .group_by(RunRow.owner_id)
        ).all()
    )
    return [Shrunk(run, job, regrown.get(job.id)) for run, job in rows]


def note_fit(session: Session, run: RunRow, fits: bool, lease_id: str) -> None:
    """Remember since when the full gang fits. Raises StaleRow."""
    current = run_as_read(session, run, lease_id)
    swap(session, current, {"fits_since": database_now() if fits else None}, lease_id=lease_id)


def note_facts(session: Session, job: JobRow, facts: Sequence[str]) -> None:
    """Sentences for `why` of a job at work; dropped if the job changed meanwhile."""
    session.execute(
        update(JobRow)
        .where(JobRow.id == job.id, JobRow.version == job.version, JobRow.phase == "running")
        .values(facts=list(facts))
        .execution_options(synchronize_session=False)
    )


def order_regrow(session: Session, seen: Shrunk, message: str, lease_id: str) -> None:
    """Order a checkpoint and a stop, so that the next attempt has the full gang. Raises
    StaleRow."""
    run = run_as_read(session, seen.run, lease_id)
    decision = RunDecision((RunEvent.STOP,), "Regrowing", message, stop_for=REGROW)
    apply_run(session, run, decision, lease_id)
    job = session.get_one(JobRow, seen.job.id)
    move_job(session, job, JobEvent.STOP, reason="Regrowing", message=message)


def note_resize(session: Session, run: RunRow, why: str) -> None:
    """The event of a run that has another number of ranks than the attempt before it."""
    before = session.scalars(
        select(RunRow)
        .where(RunRow.owner_id == run.owner_id, RunRow.epoch < run.epoch)
        .order_by(RunRow.epoch.desc())
        .limit(1)
    ).one_or_none()
    old = len(before.placements) if before is not None else run.full_ranks
    new = len(run.placements)
    if old is None or old == new or (run.full_ranks is None and before is None):
        return
    word = "shrunk" if new < old else "regrown"
    cause = why or (f"{before.phase}: {before.reason}" if before is not None else "")
    layouts = {
        "from": _layout(before) if before is not None else None,
        "to": _layout(run),
    }
    append_event(
        session,
        type=f"run.{word}",
        subject=f"job/{run.owner_name}",
        subject_id=run.owner_id,
        project=run.project,
        message=f"run {run.epoch} {word} from {old} to {new} ranks ({_words(layouts['from'])} → "
        f"{_words(layouts['to'])}): {cause}",
        actor=ACTOR,
        data={"run_id": run.id, "epoch": run.epoch, "from_ranks": old, "to_ranks": new,
              "full_ranks": run.full_ranks or new, "why": cause, **layouts},
    )  # fmt: skip


def _layout(run: RunRow) -> dict[str, Any] | None:
    layout = run.spec.get("parallelism")
    return layout if isinstance(layout, dict) else None


def _words(layout: dict[str, Any] | None) -> str:
    if layout is None:
        return "its layout"
    axes = ("data", "tensor", "pipeline")
    return " × ".join(f"{axis} {layout.get(axis, 1)}" for axis in axes)
