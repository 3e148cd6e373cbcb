"""What a run's supervisor says, taken in exactly once.

One call is one transaction of the caller: either all of a beat is stored, or nothing.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from quarterdeck.lifecycle.observe import UNKNOWN
from quarterdeck.lifecycle.run import ENDED
from quarterdeck.specs.beats import BeatReply, RunBeat
from quarterdeck.store.beat_records import (
    add_checkpoints,
    add_log_matches,
    add_logs,
    add_metrics,
    add_outputs,
    add_run_events,
)
from quarterdeck.store.columns import database_now
from quarterdeck.store.errors import NotFound, StaleEpoch
from quarterdeck.store.goodput import REPORTED_ENDS, observe_accounts
from quarterdeck.store.outbox import append_event
from quarterdeck.store.tables import JobRow, RunRow
from quarterdeck.store.text import clean


def record_beat(session: Session, run_id: str, beat: RunBeat) -> BeatReply:
    """Store one beat and answer with the controller's order.

    Idempotent by `beat.seq`: a number that was stored already changes nothing but the sign of
    life. Raises NotFound for an unknown run and StaleEpoch for a fenced one.
    """
    run = session.scalars(select(RunRow).where(RunRow.id == run_id).with_for_update()).one_or_none()
    if run is None:
        raise NotFound("run", run_id)
    job = _fence(session, run, beat)
    now: datetime = session.execute(select(database_now())).scalar_one()
    run.last_beat_at = now
    if beat.seq > run.beat_seq:
        _note_gap(session, run, beat)
        _observe(run, beat)
        add_metrics(session, run, beat.metrics)
        add_logs(session, run, beat.logs)
        add_checkpoints(session, run, beat.checkpoints)
        add_outputs(session, run, beat.outputs)
        add_run_events(session, run, beat.events)
        add_log_matches(session, run, beat.log_matches)
        if job is not None:
            _progress(job, run, beat)
        run.beat_seq = beat.seq
    return _reply(run, now)


def _fence(session: Session, run: RunRow, beat: RunBeat) -> JobRow | None:
    """Refuse what is not the owner's present attempt; the job, locked against a new epoch."""
    if beat.epoch != run.epoch:
        raise StaleEpoch(run.id, beat.epoch, f"the run's epoch is {run.epoch}")
    if run.claimed_by is None:
        raise StaleEpoch(run.id, beat.epoch, "it was never claimed")
    if run.quarantined or run.phase == "lost":
        raise StaleEpoch(run.id, beat.epoch, "it was given up: " + (run.message or run.reason))
    if run.phase == "cancelled" and run.reported_phase not in REPORTED_ENDS:
        raise StaleEpoch(run.id, beat.epoch, "it was cancelled")
    if run.owner_type != "job":
        return None
    job = session.scalars(
        select(JobRow).where(JobRow.id == run.owner_id).with_for_update()
    ).one_or_none()
    if job is None:
        raise StaleEpoch(run.id, beat.epoch, "its job does not exist")
    if job.epoch != run.epoch:
        raise StaleEpoch(run.id, beat.epoch, f"the job is at epoch {job.epoch}")
    return job


def _note_gap(session: Session, run: RunRow, beat: RunBeat) -> None:
    missing = beat.seq - run.beat_seq - 1
    if missing <= 0 and beat.dropped <= 0:
        return
    parts = [
        f"{missing} beats never arrived" if missing > 0 else "",
        f"{beat.dropped} items were dropped by the supervisor's spool" if beat.dropped > 0 else "",
    ]
    append_event(
        session,
        type="telemetry_gap",
        subject=f"{run.owner_type}/{run.owner_name}",
        subject_id=run.owner_id,
        project=run.project,
        message=f"run {run.epoch}: " + " and ".join(part for part in parts if part),
        actor=f"run/{run.id}",
        data={"run_id": run.id, "beats": max(missing, 0), "dropped": beat.dropped},
    )


def _observe(run: RunRow, beat: RunBeat) -> None:
    if run.reported_phase not in REPORTED_ENDS:
        run.reported_phase = beat.reported_phase
    run.reported_message = clean(beat.message, 1000)
    run.ranks = [rank.model_dump(mode="json") for rank in beat.ranks] or run.ranks
    if beat.step is not None:
        run.step = beat.step
        if run.first_step is None:
            run.first_step = min([beat.step, *(row.step for row in beat.metrics)])
    observe_accounts(run, beat)
    if beat.failure is not None and run.failure is None:
        failure = beat.failure.model_dump(mode="json")
        failure["message"] = clean(failure["message"])
        failure["traceback"] = clean(failure["traceback"], 200_000)
        run.failure = failure
    if beat.endpoint is not None:
        run.endpoint = beat.endpoint.model_dump(mode="json")


def _progress(job: JobRow, run: RunRow, beat: RunBeat) -> None:
    if job.phase == run.phase == "running" and run.reason != UNKNOWN:
        job.message = run.reported_message  # e.g. until when a failed attempt is held
    if beat.step is not None:
        job.step = beat.step
    if beat.steps_total is not None:
        job.steps_total = beat.steps_total
    job.eta_seconds = beat.eta_seconds
    if beat.metrics:
        newest = max(beat.metrics, key=lambda row: row.step).values
        job.loss = newest.get("loss", job.loss)
        job.tokens_per_second = newest.get("tokens_per_second", job.tokens_per_second)
    if beat.results:
        job.results = {**job.results, **beat.results}


def _reply(run: RunRow, now: datetime) -> BeatReply:
    reply: dict[str, Any] = {"acked_seq": run.beat_seq}
    if run.phase in ENDED and run.phase == "cancelled":
        reply.update(order="die", reason=run.reason)
    elif run.order != "continue":
        left = (run.order_deadline_at - now).total_seconds() if run.order_deadline_at else 30.0
        reply.update(order=run.order, reason=run.order_reason, deadline_seconds=max(left, 0.0))
    return BeatReply.model_validate(reply)
