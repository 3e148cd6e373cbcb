"""What the run watcher reads and writes: facts by the database's clock, decisions applied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, case, exists, func, or_, select
from sqlalchemy.orm import Session
from sqlalchemy.sql.expression import ColumnElement

from quarterdeck.lifecycle.observe import (
    KILL_AFTER_S,
    LOST_AFTER_S,
    RESTORED,
    STOP_DEADLINE_S,
    UNKNOWN,
    RunDecision,
    RunFacts,
    order_for,
)
from quarterdeck.lifecycle.restarts import DELAYS_S, MAX_FRUITLESS, Attempt
from quarterdeck.lifecycle.run import ENDED, RunEvent
from quarterdeck.specs.accelerator_share import part
from quarterdeck.store.columns import database_now
from quarterdeck.store.errors import StaleRow
from quarterdeck.store.goodput import close_books
from quarterdeck.store.leases import claim_rows, swap
from quarterdeck.store.orphans import Restore, read_restore
from quarterdeck.store.outbox import append_event
from quarterdeck.store.slots import held_by
from quarterdeck.store.tables import (
    CheckpointRow,
    ClusterRow,
    JobRow,
    NodeRow,
    RunRow,
    ServiceRow,
)
from quarterdeck.store.transitions import ACTOR, move_run

LEASE_S = 30.0
HEARD_S = 30.0
"""A cluster whose agent spoke within this time shows that the api hears."""


@dataclass(frozen=True)
class Watched:
    """A leased run, its job if it has one, and what is known."""

    run: RunRow
    job: JobRow | None
    facts: RunFacts


def claim_runs(session: Session, lease_id: str, limit: int = 500) -> list[str]:
    """Lease the runs that may change: not ended, or quarantined."""
    live = or_(RunRow.phase.not_in(sorted(ENDED)), RunRow.quarantined)
    return claim_rows(session, RunRow, [live], lease_id=lease_id, seconds=LEASE_S, limit=limit)


def watched(
    session: Session, ids: Sequence[str], *, lost_after: dict[str, float] | None = None
) -> list[Watched]:
    """Each run with its facts; silence and deadlines are judged by the database's clock."""
    limits = {**LOST_AFTER_S, **(lost_after or {})}
    known = {
        node.id: node
        for node in session.execute(
            select(NodeRow.id, NodeRow.host, NodeRow.phase, NodeRow.confirmed_dead)
        )
    }
    rows = session.execute(
        select(
            RunRow,
            case(
                (RunRow.owner_type == "job", _silent(limits["job"])),
                else_=_silent(limits["service"]),
            ),
            _cluster_silent(limits["job"]),
            func.coalesce(RunRow.order_deadline_at < database_now(-KILL_AFTER_S), False),
            (database_now() - RunRow.claimed_at)
            if session.get_bind().dialect.name == "postgresql"
            else (func.julianday(database_now()) - func.julianday(RunRow.claimed_at)) * 86400.0,
        ).where(RunRow.id.in_(ids))
    ).all()
    restore = read_restore(session)
    # At once: one by one they would be as many queries.
    owned = [run.owner_id for run, *_ in rows if run.owner_type == "job"]
    jobs = {job.id: job for job in session.scalars(select(JobRow).where(JobRow.id.in_(owned)))}
    found: list[Watched] = []
    for run, silent, cluster_silent, deadline_passed, age in rows:
        owner: JobRow | ServiceRow | None
        if run.owner_type == "job":
            owner = jobs.get(run.owner_id)
        else:
            owner = session.get(ServiceRow, run.owner_id)
        job = owner if isinstance(owner, JobRow) else None
        nodes = [known.get(node) for node in placed_on(run)]
        facts = RunFacts(
            owner_type=run.owner_type,
            kind=run.kind,
            phase=run.phase,
            claimed=run.claimed_by is not None,
            generation_passed=_generation_passed(run, restore),
            may_be_claimed=_may_be_claimed(run, restore),
            refused=run.refused,
            reported_phase=run.reported_phase,
            failure=run.failure,
            heard=run.beat_seq > 0,
            sighted=run.sighted,
            sighted_detail=run.sighted_detail,
            silent=bool(silent),
            cluster_silent=bool(cluster_silent),
            nodes_dead=any(node is None or node.phase == "dead" for node in nodes),
            confirmed_dead=_confirmed(nodes),
            unproven=tuple(node.host for node in nodes if node and not node.confirmed_dead),
            noted_unknown=run.reason == UNKNOWN,
            desired=job.desired if job is not None else "run",
            stopping_for=run.stopping_for,
            deadline_passed=bool(deadline_passed),
            kill_requested=run.kill_requested,
            overdue=_overdue(run, age),
            restart_safe=run.kind != "command" or bool(run.spec.get("restart_safe")),
            probed=bool(run.endpoint and run.endpoint.get("probed")),
        )
        found.append(Watched(run, job, facts))
    return found


def _generation_passed(run: RunRow, restore: Restore | None) -> bool:
    if restore is None or run.generation >= restore.generation:
        return False
    heard = run.last_beat_at or run.claimed_at
    return heard is None or heard <= restore.at


def _may_be_claimed(run: RunRow, restore: Restore | None) -> bool:
    if restore is None or run.claimed_by is not None or run.generation >= restore.generation:
        return False
    return bool(restore.unheard) or (run.id, run.epoch) in restore.runs


def placed_on(run: RunRow) -> list[str]:
    """Ids of the nodes of a run's placement, in the order of its ranks."""
    return list(dict.fromkeys(placement["node_id"] for placement in run.placements))


def _confirmed(nodes: Sequence[Any]) -> str:
    """Who vouched for the death of all of `nodes`; empty unless every one is covered."""
    said = [node.confirmed_dead if node is not None else None for node in nodes]
    if not said or not all(said):
        return ""
    words = {f"confirmed by {each['by']}: {each['reason']}" for each in said if each}
    return "; ".join(sorted(words))


def _silent(lost_after: float) -> ColumnElement[bool]:
    """No beat for longer, while some agent was heard all that time: then it is not the control
    plane that was away."""
    heard = exists(
        select(ClusterRow.id).where(
            ClusterRow.last_beat_at > database_now(-HEARD_S),
            ClusterRow.heard_since < database_now(-lost_after),
        )
    )
    return and_(
        RunRow.claimed_at.is_not(None),
        func.coalesce(RunRow.last_beat_at, RunRow.claimed_at) < database_now(-lost_after),
        heard,
    )


def _cluster_silent(lost_after: float) -> ColumnElement[bool]:
    return exists(
        select(ClusterRow.id).where(
            ClusterRow.name == RunRow.cluster,
            ClusterRow.last_beat_at < database_now(-lost_after),
        )
    )


def _overdue(run: RunRow, age: Any) -> bool:
    limit = run.spec.get("max_duration")
    if limit is None or age is None:
        return False
    seconds = age.total_seconds() if hasattr(age, "total_seconds") else float(age)
    return bool(seconds > float(limit))


def run_as_read(
    session: Session, seen: RunRow, lease_id: str, *, unless_heard: bool = False
) -> RunRow:
    """The run again, in this session; raises StaleRow unless it is ours and as it was read, with
    `unless_heard` also when it was claimed or a beat came since."""
    current = session.get(RunRow, seen.id)
    if unless_heard and current is not None and _voice(current) != _voice(seen):
        raise StaleRow(f"run {seen.id} was heard again")
    if current is None or current.version != seen.version or current.lease_id != lease_id:
        raise StaleRow(f"run {seen.id} changed since version {seen.version}")
    return current


def _voice(run: RunRow) -> tuple[object, ...]:
    return (run.claimed_by, run.beat_seq, run.last_beat_at, run.sighted)


def apply_run(session: Session, run: RunRow, decision: RunDecision, lease_id: str) -> None:
    """Write a decision's changes of the run itself. Raises StaleRow when silence was broken."""
    final = len(decision.events) - 1
    for index, event in enumerate(decision.events):
        last = index == final
        move_run(
            session,
            run,
            event,
            reason=decision.reason if last else None,
            message=decision.message if last else "",
            lease_id=lease_id,
            values=_values(run, decision, event) if last else None,
            unless_heard=decision.unless_heard,
        )
    if not decision.events and changes(run, decision):
        values = _values(run, decision, None)
        if decision.reason:
            values |= {"reason": decision.reason, "message": decision.message}
        swap(session, run, values, lease_id=lease_id)
    if decision.telemetry_gap:
        tell_of_run(session, run, "telemetry_gap", decision.telemetry_gap)
    if decision.quarantine:
        held = part(sum(held_by(run.placements).values()))
        tell_of_run(
            session, run, "run.quarantined", f"it holds {held} slots until it is proven dead"
        )


def changes(run: RunRow, decision: RunDecision) -> bool:
    """Whether a decision says anything that the run's row does not."""
    said = (decision.reason, decision.message)
    words = bool(decision.reason) and said != (run.reason, run.message)
    return bool(decision.events or decision.stop_for or decision.kill or words)


def _values(run: RunRow, decision: RunDecision, event: RunEvent | None) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if decision.stop_for is not None:
        order = order_for(run.kind, decision.stop_for)
        values |= {
            "stopping_for": decision.stop_for,
            "order": order,
            "order_reason": decision.stop_for,
            "order_deadline_at": database_now(STOP_DEADLINE_S[order]),
        }
    if decision.kill is not None:
        values |= {"kill_requested": True, "kill_reason": decision.kill}
    if decision.quarantine:
        values["quarantined"] = True
    if decision.failure is not None and run.failure is None:
        values["failure"] = decision.failure
    return values


def free_quarantined(session: Session, run: RunRow, proof: str, lease_id: str) -> None:
    """The old attempt is proven dead: its slots are free again."""
    swap(session, run, {"quarantined": False}, lease_id=lease_id)
    tell_of_run(session, run, "run.freed", f"{proof}: its slots are free again")


def note_job(session: Session, job: JobRow, run: RunRow) -> None:
    """Show on the job that nobody knows of its run, or that it is heard again."""
    if run.reason == UNKNOWN:
        swap(session, job, {"reason": UNKNOWN, "message": run.message})
        tell_of_run(session, run, "run.unknown", run.message)
    else:
        words = f"run {run.epoch} is heard again"
        swap(session, job, {"reason": job.phase.capitalize(), "message": words})
        tell_of_run(session, run, "run.heard", "it is heard again")


def tell_of_run(session: Session, run: RunRow, type: str, message: str) -> None:
    """An event of the run's owner."""
    append_event(
        session,
        type=type,
        subject=f"{run.owner_type}/{run.owner_name}",
        subject_id=run.owner_id,
        project=run.project,
        message=f"run {run.epoch}: {message}",
        actor=ACTOR,
        data={"run_id": run.id, "epoch": run.epoch},
    )


def account(session: Session, run: RunRow) -> None:
    """Close the books of a run that has ended."""
    saved = session.scalar(
        select(func.max(CheckpointRow.step)).where(CheckpointRow.run_id == run.id)
    )
    start = run.resumed_from_step or 0
    done = (run.step or start) - start
    kept = max((saved or start) - start, 0)
    close_books(session, run, kept_share=min(kept / done, 1.0) if done > 0 else 0.0)


def failed_attempts(session: Session, run: RunRow) -> list[Attempt]:
    """The newest attempts of a run's owner that nobody asked to end, newest first, at most as many
    as decide anything. Epochs may have gaps: they are not counted, runs are."""
    saved = exists(select(CheckpointRow.id).where(CheckpointRow.run_id == RunRow.id))
    rows = session.execute(
        select(RunRow.claimed_at, RunRow.ended_at, saved)
        .where(
            RunRow.owner_id == run.owner_id,
            RunRow.phase.in_(("failed", "lost", "cancelled", "preempted")),
            RunRow.stopping_for.is_(None),
            RunRow.claimed_at.is_not(None),
            RunRow.reason != RESTORED,
        )
        .order_by(RunRow.epoch.desc())
        .limit(max(MAX_FRUITLESS, len(DELAYS_S)))
    )
    return [
        Attempt(bool(kept), (ended - claimed).total_seconds() if ended and claimed else 0.0)
        for claimed, ended, kept in rows
    ]
