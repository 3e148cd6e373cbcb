"""Where the rank-seconds of runs went: taken from beats, closed at the end, summed up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session, load_only

from quarterdeck.lifecycle.goodput import Attempt, Books, Cost, costs, settle
from quarterdeck.lifecycle.job import JOB, WITH_RUN
from quarterdeck.specs.beats import RankSeconds, RunBeat
from quarterdeck.store.columns import database_now
from quarterdeck.store.outbox import append_event
from quarterdeck.store.tables import JobRow, RunRow

ACCOUNTS = tuple(RankSeconds.model_fields)
REPORTED_ENDS = frozenset({"succeeded", "failed", "preempted", "cancelled"})
MAX_JOBS = 1000
_COLUMNS = tuple(getattr(RunRow, f"{name}_seconds") for name in ACCOUNTS)


def observe_accounts(run: RunRow, beat: RunBeat) -> None:
    """Take a beat's accounts, unless the attempt's books are closed."""
    if run.kept_seconds is not None:
        return
    accounts, unsaved = beat.accounts, beat.unsaved_seconds if beat.accounts else None
    if accounts is None:
        productive = max(run.productive_seconds, beat.productive_seconds)
        rest = max(run.held_seconds, beat.held_seconds) - productive
        other = "restart" if run.attempt > 1 else "starting"
        accounts = RankSeconds.model_validate({"productive": productive, other: max(0.0, rest)})
    _write(run, Books(accounts, unsaved or 0.0, beat.lost_seconds))
    run.unsaved_seconds = unsaved


def books_of(run: RunRow) -> Books:
    """A run's accounts."""
    values = {name: getattr(run, f"{name}_seconds") for name in ACCOUNTS}
    return Books(RankSeconds(**values), run.unsaved_seconds or 0.0, run.lost_seconds)


def close_books(session: Session, run: RunRow, *, kept_share: float) -> None:
    """Settle the accounts of a run that just ended, with an event; once.

    `kept_share` is the share of its steps that a checkpoint has, for a run whose supervisor does
    not tell what it had not saved.
    """
    if run.kept_seconds is not None:
        return
    books = books_of(run)
    if run.phase != "succeeded" and run.owner_type == "job":
        if run.unsaved_seconds is None:
            unsaved = books.accounts.productive * (1.0 - kept_share)
            books = Books(books.accounts, unsaved, books.lost)
        books = settle(books, silent=_silent_seconds(run))
    _write(run, books)
    run.unsaved_seconds = 0.0
    run.kept_seconds = run.productive_seconds
    session.flush()
    if run.held_seconds > 0:
        accounts = books.accounts
        append_event(
            session,
            type="run.goodput",
            subject=f"{run.owner_type}/{run.owner_name}",
            subject_id=run.owner_id,
            project=run.project,
            message=f"run {run.epoch}: {accounts.productive / accounts.held:.0%} of "
            f"{accounts.held:.0f} rank-seconds productive"
            + (f", {books.lost:.0f} lost at its end" if books.lost else ""),
            actor="controller",
            data={"run_id": run.id, "epoch": run.epoch, "held": accounts.held,
                  "lost": books.lost, **accounts.model_dump()},
        )  # fmt: skip


def _write(run: RunRow, books: Books) -> None:
    for name, seconds in books.accounts.model_dump().items():
        setattr(run, f"{name}_seconds", seconds)
    run.held_seconds = books.accounts.held
    run.lost_seconds = books.lost


def _silent_seconds(run: RunRow) -> float:
    """Rank-seconds between a run's last word and its end, where it did not tell the end itself."""
    heard = run.last_beat_at or run.claimed_at
    if run.reported_phase in REPORTED_ENDS or heard is None or run.ended_at is None:
        return 0.0
    return max(0.0, (run.ended_at - heard).total_seconds()) * len(run.placements)


# --- sums --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JobBooks:
    """A job's accounts over all of its attempts."""

    job_id: str
    name: str
    project: str
    attempts: int
    accounts: RankSeconds


def accounts_by_cluster(session: Session) -> Mapping[str, RankSeconds]:
    """Sums over all runs on record."""
    sums = select(RunRow.cluster, *(func.sum(column) for column in _COLUMNS))
    rows = session.execute(sums.group_by(RunRow.cluster))
    return {cluster: _sum(seconds) for cluster, *seconds in rows}


def accounts_by_job(
    session: Session, *, project: str | None, since: datetime | None, cluster: str | None = None
) -> list[JobBooks]:
    """Jobs with runs that held slots after `since`, those that held most first; their runs are
    counted as a whole. At most a thousand."""
    held = func.sum(RunRow.held_seconds)
    query = (
        select(
            RunRow.owner_id, RunRow.owner_name, RunRow.project, func.count(),
            *(func.sum(column) for column in _COLUMNS),
        )
        .where(RunRow.owner_type == "job")
        .group_by(RunRow.owner_id, RunRow.owner_name, RunRow.project)
        .order_by(held.desc(), RunRow.owner_id)
        .limit(MAX_JOBS)
    )  # fmt: skip
    if project is not None:
        query = query.where(RunRow.project == project)
    if cluster is not None:
        query = query.where(RunRow.cluster == cluster)
    if since is not None:
        query = query.where(or_(RunRow.ended_at.is_(None), RunRow.ended_at > since))
    return [
        JobBooks(owner, name, home, attempts, _sum(seconds))
        for owner, name, home, attempts, *seconds in session.execute(query)
    ]


def job_books(session: Session, job: JobRow) -> tuple[list[RunRow], list[Cost]]:
    """A job's attempts, oldest first, and what its incidents cost."""
    runs = session.scalars(
        select(RunRow)
        .where(RunRow.owner_id == job.id)
        .order_by(RunRow.epoch)
        .options(
            load_only(
                RunRow.id, RunRow.epoch, RunRow.phase, RunRow.placements, RunRow.created_at,
                RunRow.ended_at, RunRow.stopping_for, RunRow.failure, RunRow.reason,
                RunRow.held_seconds, RunRow.unsaved_seconds, RunRow.lost_seconds, *_COLUMNS,
            )
        )
    ).all()  # fmt: skip
    now = session.execute(select(database_now())).scalar_one()
    waits = job.phase not in JOB.final and job.phase not in WITH_RUN and job.desired == "run"
    return list(runs), costs([_attempt(run) for run in runs], now, waits=waits)


def _attempt(run: RunRow) -> Attempt:
    return Attempt(
        epoch=run.epoch,
        ranks=len(run.placements),
        phase=run.phase,
        books=books_of(run),
        created_at=run.created_at,
        ended_at=run.ended_at,
        stopping_for=run.stopping_for,
        failure=run.failure,
        reason=run.reason,
    )


def _sum(seconds: Sequence[float | None]) -> RankSeconds:
    pairs = zip(ACCOUNTS, seconds, strict=True)
    return RankSeconds(**{name: value or 0.0 for name, value in pairs})
