"""Services: found, listed, created, revised, scaled, removed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from quarterdeck.lifecycle.chains import StepFacts
from quarterdeck.lifecycle.run import ENDED
from quarterdeck.specs.chains import steps_of
from quarterdeck.specs.rollout import LIVE_FIELDS
from quarterdeck.store.columns import database_now
from quarterdeck.store.errors import NotFound
from quarterdeck.store.ids import new_id, next_ordinal
from quarterdeck.store.outbox import append_event
from quarterdeck.store.paging import fetch_page
from quarterdeck.store.tables import RevisionRow, RunRow, ServiceRow


def get_service(session: Session, identity: str, project: str, *, lock: bool = False) -> ServiceRow:
    """The service with this id, else the newest called so in `project`. Raises NotFound."""
    by_id = select(ServiceRow).where(ServiceRow.id == identity)
    by_name = (
        select(ServiceRow)
        .where(ServiceRow.project == project, ServiceRow.name == identity)
        .order_by(ServiceRow.ordinal.desc(), ServiceRow.id.desc())
        .limit(1)
    )
    for query in (by_id, by_name):
        found = session.scalars(query.with_for_update() if lock else query).one_or_none()
        if found is not None:
            return found
    raise NotFound("service", identity)


def live_services(
    session: Session, project: str, names: Collection[str] | None = None
) -> Mapping[str, ServiceRow]:
    """Services of the project that are not being removed, by name; of `names` alone where given."""
    query = select(ServiceRow).where(
        ServiceRow.project == project, ServiceRow.phase != "stopped", ServiceRow.desired == "run"
    )
    if names is not None:
        query = query.where(ServiceRow.name.in_(names))
    return {row.name: row for row in session.scalars(query.order_by(ServiceRow.ordinal))}


def list_services(
    session: Session, project: str | None, *, cursor: str | None, limit: int
) -> tuple[list[ServiceRow], str | None]:
    """Services that are not stopped, newest first."""
    query = select(ServiceRow).where(ServiceRow.phase != "stopped")
    if project is not None:
        query = query.where(ServiceRow.project == project)
    keys = (ServiceRow.ordinal, ServiceRow.id)
    return fetch_page(session, query, keys, descending=True, cursor=cursor, limit=limit)


def replicas_of(session: Session, service_ids: Sequence[str]) -> Mapping[str, list[RunRow]]:
    """The runs of each service that have not ended, oldest first."""
    found: dict[str, list[RunRow]] = {identity: [] for identity in service_ids}
    query = select(RunRow).where(
        RunRow.owner_id.in_(service_ids),
        RunRow.owner_type == "service",
        RunRow.phase.not_in(sorted(ENDED)),
    )
    for run in session.scalars(query.order_by(RunRow.epoch)):
        found[run.owner_id].append(run)
    return found


def chain_facts(session: Session, services: Sequence[ServiceRow]) -> Mapping[str, list[StepFacts]]:
    """How the steps of each chain among the services stand, by its id."""
    chains = {row.id: steps_of(row.spec) for row in services if row.spec.get("chain")}
    if not chains:
        return {}
    names = {step.service for steps in chains.values() for step in steps}
    projects = {row.project for row in services if row.id in chains}
    query = select(ServiceRow).where(
        ServiceRow.project.in_(projects),
        ServiceRow.name.in_(names),
        ServiceRow.phase != "stopped",
        ServiceRow.desired == "run",
    )
    found = {(row.project, row.name): row for row in session.scalars(query)}
    return {
        row.id: [
            _step_facts(step.role, step.service, found.get((row.project, step.service)))
            for step in chains[row.id]
        ]
        for row in services
        if row.id in chains
    }


def _step_facts(role: str, name: str, row: ServiceRow | None) -> StepFacts:
    if row is None:
        return StepFacts(role, name)
    return StepFacts(
        role, name, row.phase, row.reason, row.ready_replicas, row.desired_replicas,
        chain=bool(row.spec.get("chain")), wakes=row.spec.get("idle_after") is not None,
    )  # fmt: skip


def list_revisions(
    session: Session, service_id: str, *, cursor: str | None, limit: int
) -> tuple[list[RevisionRow], str | None]:
    """Revisions of one service, newest first."""
    query = select(RevisionRow).where(RevisionRow.service_id == service_id)
    keys = (RevisionRow.revision,)
    return fetch_page(session, query, keys, descending=True, cursor=cursor, limit=limit)


def count_by_phase(session: Session) -> Mapping[str, int]:
    """How many services are in each phase that is not final."""
    query = (
        select(ServiceRow.phase, func.count())
        .where(ServiceRow.phase != "stopped")
        .group_by(ServiceRow.phase)
    )
    return {row.phase: row[1] for row in session.execute(query)}


def add_service(
    session: Session,
    *,
    name: str,
    project: str,
    spec: dict[str, Any],
    replicas: int,
    priority: int,
    actor: str,
) -> ServiceRow:
    """Insert a service with its first revision and the event of its creation."""
    row = ServiceRow(
        id=new_id("svc"), name=name, project=project, spec=spec, desired_replicas=replicas,
        priority=priority, ordinal=next_ordinal(), message="created, not looked at yet",
    )  # fmt: skip
    session.add(row)
    session.flush()
    first = RevisionRow(service_id=row.id, revision=1, spec=spec, actor=actor, note="applied")
    session.add(first)
    session.flush()
    _tell(session, row, "service.created", f"service {name} created", actor)
    return row


def revise_service(
    session: Session,
    row: ServiceRow,
    *,
    spec: dict[str, Any],
    replicas: int,
    priority: int,
    actor: str,
    note: str = "applied",
) -> RevisionRow:
    """Write another spec as a new revision. The caller holds the row's lock."""
    row.revision += 1
    row.version += 1
    row.spec = spec
    row.desired_replicas = replicas
    row.priority = priority
    row.due_at = database_now()
    revision = RevisionRow(
        service_id=row.id, revision=row.revision, spec=spec, actor=actor, note=note
    )
    session.add(revision)
    _tell(session, row, "service.revised", f"revision {row.revision}: {note}", actor)
    _settle(session, row)
    return revision


def change_live(
    session: Session,
    row: ServiceRow,
    *,
    spec: dict[str, Any],
    replicas: int,
    priority: int,
    actor: str,
) -> None:
    """Write a spec that asks for the same replicas: no new revision. The caller holds the row's
    lock."""
    changed = sorted(name for name in {*row.spec, *spec} if row.spec.get(name) != spec.get(name))
    row.version += 1
    row.spec = spec
    row.desired_replicas = replicas
    row.priority = priority
    row.due_at = database_now()
    _tell(session, row, "service.changed", f"changed: {', '.join(changed)}", actor)
    _settle(session, row)


def get_revision(session: Session, row: ServiceRow, number: int) -> RevisionRow:
    """One revision of a service. Raises NotFound."""
    found = session.get(RevisionRow, (row.id, number))
    if found is None:
        raise NotFound("revision", f"{number} of service/{row.name}")
    return found


def undo_service(session: Session, row: ServiceRow, to: RevisionRow, *, actor: str) -> None:
    """Make an earlier revision the newest, under a new number: its replicas are the same, also
    where an alias has moved since. What is no property of replicas stays as it is now. The caller
    holds the row's lock."""
    live = {name: row.spec[name] for name in LIVE_FIELDS if name in row.spec}
    origin = to.of_revision or to.revision
    revision = revise_service(
        session, row, spec={**to.spec, **live}, replicas=row.desired_replicas,
        priority=row.priority, actor=actor, note=f"undo to revision {to.revision}",
    )  # fmt: skip
    revision.of_revision = origin
    if to.inputs is not None:
        revision.inputs = to.inputs
        models = to.inputs.get("model", [])
        row.model_version = f"{models[0]['name']}@{models[0]['version']}" if models else None
    _settle(session, row)


def wish_rollout(session: Session, row: ServiceRow, wish: str, *, actor: str) -> None:
    """Want the rollout to pause or to go on; the controller sees to it. The caller holds the row's
    lock."""
    row.rollout_wish = {"wish": wish, "by": actor}
    row.version += 1
    row.due_at = database_now()
    _tell(session, row, f"rollout.{wish}_wanted", f"the rollout is to {wish}", actor)
    _settle(session, row)


def scale_service(session: Session, row: ServiceRow, replicas: int, *, actor: str) -> None:
    """Wish for another number of replicas. The caller holds the row's lock."""
    if row.desired_replicas == replicas:
        return
    message = f"replicas {row.desired_replicas} → {replicas}"
    row.desired_replicas = replicas
    row.version += 1
    row.due_at = database_now()
    _tell(session, row, "service.scaled", message, actor)
    _settle(session, row)


def remove_service(session: Session, row: ServiceRow, *, actor: str) -> None:
    """Wish for its end: controllers drain and stop the replicas. Repeating changes nothing."""
    if row.desired == "stop":
        return
    row.desired = "stop"
    row.version += 1
    row.due_at = database_now()
    _tell(session, row, "service.removed", f"service {row.name} is to be removed", actor)
    _settle(session, row)


def _settle(session: Session, row: ServiceRow) -> None:
    session.flush()
    session.refresh(row)


def _tell(session: Session, row: ServiceRow, type: str, message: str, actor: str) -> None:
    append_event(
        session,
        type=type,
        subject=f"service/{row.name}",
        subject_id=row.id,
        project=row.project,
        message=message,
        actor=actor,
        data={"revision": row.revision, "desired_replicas": row.desired_replicas},
    )
