"""What the service reconciler reads and writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from quarterdeck.lifecycle.chains import StepFacts
from quarterdeck.lifecycle.rollouts import News
from quarterdeck.lifecycle.run import ENDED, RunEvent
from quarterdeck.specs.references import parse_reference
from quarterdeck.store.columns import database_now
from quarterdeck.store.errors import StaleRow
from quarterdeck.store.leases import claim_rows, swap
from quarterdeck.store.outbox import append_event
from quarterdeck.store.references import Resolution, resolve_spec
from quarterdeck.store.service_queries import chain_facts, revise_service
from quarterdeck.store.tables import AssetAliasRow, NodeRow, RevisionRow, RunRow, ServiceRow
from quarterdeck.store.transitions import ACTOR, move_run

LEASE_S = 30.0
DRAIN_S = 30.0
"""How long a replica may finish its requests before it is stopped."""
HISTORY = 50


@dataclass(frozen=True)
class ServiceView:
    """A leased service, its newest revision, its live runs and its latest ended ones."""

    now: datetime
    service: ServiceRow
    revision: RevisionRow | None
    resolved: RevisionRow | None
    """The newest whose references are resolved."""
    live: Sequence[RunRow]
    ended: Sequence[RunRow]
    """Newest first."""
    cordoned: frozenset[str]
    """Machines that take nothing new."""
    steps: Sequence[StepFacts] = ()
    """Of a chain."""


def claim_services(session: Session, lease_id: str, limit: int = 200) -> list[str]:
    """Lease the services that have not stopped."""
    live = ServiceRow.phase != "stopped"
    return claim_rows(session, ServiceRow, [live], lease_id=lease_id, seconds=LEASE_S, limit=limit)


def service_views(session: Session, ids: Sequence[str]) -> list[ServiceView]:
    """All that is known of each service."""
    now: datetime = session.execute(select(database_now())).scalar_one()
    cordoned = frozenset(session.scalars(select(NodeRow.id).where(NodeRow.cordoned.is_(True))))
    views: list[ServiceView] = []
    services = session.scalars(select(ServiceRow).where(ServiceRow.id.in_(ids))).all()
    steps = chain_facts(session, services)
    for service in services:
        mine = RunRow.owner_id == service.id
        newest = (
            select(RevisionRow)
            .where(RevisionRow.service_id == service.id)
            .order_by(RevisionRow.revision.desc())
            .limit(1)
        )
        revision = session.scalars(newest).first()
        resolved = revision
        if revision is not None and revision.inputs is None:
            resolved = session.scalars(newest.where(RevisionRow.inputs.is_not(None))).first()
        live = session.scalars(
            select(RunRow).where(mine, RunRow.phase.not_in(sorted(ENDED))).order_by(RunRow.epoch)
        ).all()
        ended = session.scalars(
            select(RunRow)
            .where(mine, RunRow.phase.in_(sorted(ENDED)))
            .order_by(RunRow.epoch.desc())
            .limit(HISTORY)
        ).all()
        mine_steps = steps.get(service.id, ())
        views.append(
            ServiceView(now, service, revision, resolved, live, ended, cordoned, mine_steps)
        )
    return views


def resolve_revision(session: Session, service: ServiceRow, revision: RevisionRow) -> Resolution:
    """Fix the versions that a revision serves, once; a revision never changes after."""
    answer = resolve_spec(session, service.project, revision.spec)
    if answer.waiting or answer.failed:
        return answer
    models = answer.inputs.get("model", [])
    version = f"{models[0]['name']}@{models[0]['version']}" if models else None
    session.execute(
        update(RevisionRow)
        .where(
            RevisionRow.service_id == service.id,
            RevisionRow.revision == revision.revision,
            RevisionRow.inputs.is_(None),
        )
        .values(inputs=answer.inputs)
        .execution_options(synchronize_session=False)
    )
    session.execute(
        update(ServiceRow)
        .where(ServiceRow.id == service.id)
        .values(model_version=version)
        .execution_options(synchronize_session=False)
    )
    append_event(
        session,
        type="service.resolved",
        subject=f"service/{service.name}",
        subject_id=service.id,
        project=service.project,
        message=f"revision {revision.revision} serves {version or 'a chain'}",
        actor=ACTOR,
        data={"revision": revision.revision, "model_version": version},
    )
    return answer


def alias_moved(session: Session, service: ServiceRow, revision: RevisionRow) -> str:
    """What to say when the alias that the model follows was moved to another version since the
    newest `revision` was made; empty: it was not."""
    model = service.spec.get("model")
    if model is None:
        return ""
    reference = parse_reference(str(model))
    alias = reference.version
    if reference.name is None or alias is None or alias.isdigit():
        return ""
    found = session.get(AssetAliasRow, (service.project, "model", reference.name, alias))
    served = next((one["version"] for one in (revision.inputs or {}).get("model", ())), None)
    if found is None or found.version == served or found.updated_at <= revision.created_at:
        return ""
    return f"{reference.name}@{alias} is version {found.version}"


def follow_alias(session: Session, service: ServiceRow, lease_id: str, note: str) -> None:
    """Make a new revision of the same spec, which resolves anew. Raises StaleRow."""
    current = fresh_service(session, service, lease_id, lock=True)
    revise_service(
        session, current, spec=current.spec, replicas=current.desired_replicas,
        priority=current.priority, actor=ACTOR, note=note,
    )  # fmt: skip


def note_service(
    session: Session, service: ServiceRow, lease_id: str, values: dict[str, Any]
) -> None:
    """Write counters and words of a leased service where they changed. Raises StaleRow."""
    changed = {key: value for key, value in values.items() if getattr(service, key) != value}
    if changed:
        swap(session, service, changed, lease_id=lease_id)


def tell_rollout(session: Session, service: ServiceRow, news: Sequence[News]) -> None:
    """Events of a rollout, in the transaction that stores its state."""
    for one in news:
        append_event(
            session,
            type=f"rollout.{one.type}",
            subject=f"service/{service.name}",
            subject_id=service.id,
            project=service.project,
            message=one.message,
            actor=ACTOR,
            data={"revision": service.revision},
        )


def fresh_service(
    session: Session, service: ServiceRow, lease_id: str, *, lock: bool = False
) -> ServiceRow:
    """The service again, in this session; raises StaleRow unless it is ours and as it was read."""
    current = session.get(ServiceRow, service.id, with_for_update=lock or None)
    if (
        current is None
        or current.version != service.version
        or current.phase != service.phase
        or current.lease_id != lease_id
    ):
        raise StaleRow(f"service {service.id} changed since version {service.version}")
    return current


def fresh_run(session: Session, run: RunRow) -> RunRow:
    """The run again, in this session; raises StaleRow unless it is as it was read."""
    current = session.get(RunRow, run.id)
    if current is None or current.version != run.version:
        raise StaleRow(f"run {run.id} changed since version {run.version}")
    return current


def begin_drain(session: Session, run: RunRow, reason: str) -> None:
    """Take a replica out of traffic: gateways see it draining, its requests go on."""
    if run.claimed_by is None:
        move_run(session, run, RunEvent.CANCELLED, reason=reason, unless_heard=True)
    elif run.phase == "assigned":
        return  # claimed a moment ago: the run watcher moves it first
    elif run.phase in ("ready", "unhealthy"):
        move_run(
            session,
            run,
            RunEvent.DRAIN,
            reason=reason,
            values={"order_deadline_at": database_now(DRAIN_S)},
        )
    else:
        stop_replica(session, run, reason)


def stop_replica(session: Session, run: RunRow, reason: str, stopping_for: str = "drain") -> None:
    """Order a drained replica, or one that takes no traffic, to stop."""
    move_run(
        session,
        run,
        RunEvent.STOP,
        reason=reason,
        values={
            "stopping_for": stopping_for,
            "order": "stop",
            "order_reason": reason,
            "order_deadline_at": database_now(DRAIN_S),
        },
    )
