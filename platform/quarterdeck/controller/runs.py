"""The run watcher: observations → run phase → job phase, stops, restarts, the lost.

Deciding is lifecycle.observe (pure); this file applies, run by run, each in one transaction.
"""

from __future__ import annotations

import logging
from typing import Any

from quarterdeck.controller.turns import Turns
from quarterdeck.lifecycle.faults import Judgement, judge
from quarterdeck.lifecycle.job import JOB, WITH_RUN, JobEvent
from quarterdeck.lifecycle.observe import RESTORED, UNKNOWN, RunDecision, decide
from quarterdeck.lifecycle.restarts import after_failure, failures_in_a_row
from quarterdeck.lifecycle.run import ENDED
from quarterdeck.store.columns import database_now
from quarterdeck.store.errors import StaleRow
from quarterdeck.store.ids import new_id
from quarterdeck.store.node_faults import note_faults
from quarterdeck.store.run_watch import (
    Watched,
    account,
    apply_run,
    changes,
    claim_runs,
    failed_attempts,
    free_quarantined,
    note_job,
    run_as_read,
    watched,
)
from quarterdeck.store.sessions import Database, Session
from quarterdeck.store.tables import JobRow, RunRow
from quarterdeck.store.transitions import move_job

log = logging.getLogger(__name__)


class Runs:
    """One controller's watch over runs. `lost_after` is seconds by owner type (job, service)."""

    def __init__(self, database: Database, lost_after: dict[str, float] | None = None) -> None:
        self._database = database
        self._lost_after = lost_after

    def tick(self) -> int:
        """Look at every run that may change once; the number of runs that did.

        Raises the first unforeseen failure, after the other runs had their turn: one run must not
        hold up all that come behind it.
        """
        lease_id = new_id("lease")
        with self._database.write() as session:
            ids = claim_runs(session, lease_id)
        if not ids:
            return 0
        changed = 0
        turns = Turns()
        try:
            with self._database.read() as session:
                seen = watched(session, ids, lost_after=self._lost_after)
            for item in seen:
                with turns.turn("run", item.run.id):
                    changed += self._look(item, lease_id)
        finally:
            with self._database.write() as session:
                turns.release(session, RunRow, ids, lease_id)
        turns.finish()
        return changed

    def _look(self, item: Watched, lease_id: str) -> bool:
        try:
            if item.run.phase in ENDED:
                return self._look_at_quarantined(item, lease_id)
            decision = decide(item.facts)
            catching_up = item.job is not None and _lags(item.job, item.run)
            if not changes(item.run, decision) and not catching_up:
                return False
            with self._database.write() as session:
                run = run_as_read(session, item.run, lease_id, unless_heard=decision.unless_heard)
                if not decision.empty:
                    apply_run(session, run, decision, lease_id)
                if run.phase in ENDED:
                    account(session, run)
                    if run.owner_type == "service":
                        _note_replica(session, run)
                if item.job is not None:
                    job = session.get(JobRow, item.job.id)
                    if job is not None and job.epoch == run.epoch:
                        _move_owner(session, job, run, decision)
            return True
        except StaleRow as stale:
            log.info("the run watcher dropped a stale result: %s", stale)
            return False

    def _look_at_quarantined(self, item: Watched, lease_id: str) -> bool:
        proof = item.facts.confirmed_dead
        if item.facts.sighted == "dead":
            proof = "it is proven dead"
        if not proof:
            return False
        with self._database.write() as session:
            free_quarantined(session, run_as_read(session, item.run, lease_id), proof, lease_id)
        return True


def _lags(job: JobRow, run: RunRow) -> bool:
    if job.epoch != run.epoch or job.phase not in WITH_RUN:
        return False
    return (run.phase == "running" and job.phase == "starting") or _unknown_differs(job, run)


def _unknown_differs(job: JobRow, run: RunRow) -> bool:
    return (run.reason == UNKNOWN) != (job.reason == UNKNOWN)


def _move_owner(session: Any, job: JobRow, run: RunRow, decision: RunDecision) -> None:
    """The job follows its newest run."""
    if job.phase not in WITH_RUN:
        return
    if run.phase in ENDED:
        _after_end(session, job, run)
    elif run.phase == "stopping" and job.phase != "stopping":
        message = f"asked to {run.order.replace('_', ' ')}"
        reason = decision.reason or "Stopping"
        move_job(session, job, JobEvent.STOP, reason=reason, message=message)
    elif run.phase == "running" and job.phase == "starting":
        move_job(session, job, JobEvent.STARTED, message=run.reported_message)
    elif _unknown_differs(job, run):
        note_job(session, job, run)


def _after_end(session: Any, job: JobRow, run: RunRow) -> None:
    if run.phase == "succeeded":
        move_job(session, job, JobEvent.SUCCEEDED, values={"failure": None})
        return
    if run.stopping_for == "max_duration":
        limit = run.spec.get("max_duration")
        move_job(
            session,
            job,
            JobEvent.FAILED,
            reason="MaxDurationReached",
            message=f"max_duration of {limit:g} s reached" if limit else run.message,
        )
        return
    if job.desired == "cancel":
        move_job(session, job, JobEvent.CANCELLED, message=run.message)
        return
    if job.desired == "suspend" or run.stopping_for == "suspend":
        move_job(session, job, JobEvent.SUSPENDED, message=run.message)
        return
    if run.reason == RESTORED:
        _after_restore(session, job, run)
        return
    if run.reason == "SecretUnreadable":
        # Another attempt would be refused again, for ever.
        move_job(session, job, JobEvent.FAILED, reason=run.reason, message=run.message)
        return
    row = failures_in_a_row(failed_attempts(session, run))
    if run.phase in ("cancelled", "preempted"):
        _again(session, job, run, message=run.message, used=job.restarts_used, delay=row.delay)
        return
    failure, judgement = _judged(session, run)
    if judgement.cancel:
        move_job(
            session, job, JobEvent.FAILED, reason="LogPolicy", message=judgement.cancel,
            values={"failure": failure},
        )  # fmt: skip
        return
    choice = after_failure(
        str(failure["blame"]),
        excused=judgement.excused,
        restarts_used=job.restarts_used,
        max_restarts=int(job.spec.get("max_restarts", 3)),
        fruitless=row.fruitless,
    )
    words = f"{choice.message}: {_first_line(str(failure['message']))}"
    if choice.restart:
        _again(
            session, job, run, message=words, used=choice.restarts_used, failure=failure,
            delay=row.delay,
        )  # fmt: skip
        return
    move_job(
        session,
        job,
        JobEvent.FAILED,
        reason=choice.reason,
        message=words,
        values={"failure": failure, "restarts_used": choice.restarts_used},
    )


def _note_replica(session: Session, run: RunRow) -> None:
    """The service replaces it itself; a machine that is to blame gets no other one."""
    if run.phase == "failed":
        _judged(session, run)


def _judged(session: Session, run: RunRow) -> tuple[dict[str, Any], Judgement]:
    """How a failed run failed and what its log lines decide; the machines blamed are noted."""
    failure = run.failure or {"blame": "unknown", "message": run.message}
    ended = run.ended_at.timestamp() if run.ended_at else 0.0
    judgement = judge(run.log_matches or [], str(failure["blame"]), ended)
    note_faults(session, run, judgement.blamed, failure)
    return failure, judgement


def _after_restore(session: Session, job: JobRow, run: RunRow) -> None:
    """How the attempt ended is lost with the days since the backup: no restart is used up, and a
    user's program that may have done its work is not run twice without being asked."""
    if job.kind != "command" or job.spec.get("restart_safe"):
        _again(session, job, run, message=run.message, used=job.restarts_used)
        return
    words = f"{run.message}: quarterdeck resume runs it again, quarterdeck cancel ends it"
    values = {"desired": "suspend"}
    move_job(session, job, JobEvent.SUSPENDED, reason=RESTORED, message=words, values=values)


def _again(
    session: Any,
    job: JobRow,
    run: RunRow,
    *,
    message: str,
    used: int,
    failure: dict[str, Any] | None = None,
    delay: float = 0.0,
) -> None:
    """Back to the queue, at the job's old place (its ordinal never changes), to be placed after
    `delay` seconds."""
    values: dict[str, Any] = {"restarts_used": used, "restart_at": None}
    if delay:
        values["restart_at"] = database_now(delay)
        message += f"; the next attempt comes after {delay:g} s"
    if failure is not None:
        values["failure"] = failure
    event = JobEvent.RESTART if JOB.allows(job.phase, JobEvent.RESTART) else JobEvent.SUSPENDED
    move_job(session, job, event, message=f"after run {run.epoch}: {message}", values=values)


def _first_line(text: str, limit: int = 300) -> str:
    line = text.strip().splitlines()[0] if text.strip() else "no message"
    return line if len(line) <= limit else f"{line[:limit]}…"
