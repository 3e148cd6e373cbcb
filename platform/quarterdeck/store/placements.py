"""Capacity in use, and the creation of runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import CursorResult, func, select, update
from sqlalchemy.orm import Session
from sqlalchemy.sql.expression import ColumnElement

from quarterdeck.lifecycle.job import JobEvent
from quarterdeck.lifecycle.run import ENDED
from quarterdeck.specs.protocol import RankPlacement
from quarterdeck.store.errors import CapacityTaken, StaleRow
from quarterdeck.store.ids import new_id
from quarterdeck.store.outbox import append_event
from quarterdeck.store.settings import generation, next_epoch
from quarterdeck.store.tables import (
    CheckpointRow,
    ClusterRow,
    JobRow,
    NodeRow,
    RunRow,
    ServiceRow,
)
from quarterdeck.store.transitions import ACTOR, move_job

_ROOMS = "rooms"


@dataclass(frozen=True)
class NewRun:
    """What the controller decided to start."""

    cluster: str
    placements: Sequence[RankPlacement]
    spec: dict[str, Any]
    inputs: dict[str, Any] = field(default_factory=dict)
    revision: int | None = None
    full_ranks: int | None = None
    """The job's ranks, where this run has fewer."""


def holding_runs(session: Session, cluster: str | None = None) -> Sequence[RunRow]:
    """Runs that hold slots: not ended, or given up and not proven dead."""
    query = select(RunRow).where(_holds())
    if cluster is not None:
        query = query.where(RunRow.cluster == cluster)
    return session.scalars(query).all()


def _holds() -> ColumnElement[bool]:
    return RunRow.phase.not_in(sorted(ENDED)) | RunRow.quarantined


def last_checkpoint(session: Session, job_id: str) -> CheckpointRow | None:
    """The last registered checkpoint: of the newest epoch that has one, the highest step."""
    return session.scalars(
        select(CheckpointRow)
        .where(CheckpointRow.job_id == job_id, CheckpointRow.state == "registered")
        .order_by(CheckpointRow.epoch.desc(), CheckpointRow.step.desc())
        .limit(1)
    ).first()


def start_job(session: Session, job: JobRow, new: NewRun, *, lease_id: str | None) -> RunRow:
    """Create the next run of a job by compare-and-swap on the job as it was read.

    Raises StaleRow when the job changed, CapacityTaken when the slots are gone; the caller's
    transaction must then be rolled back.
    """
    _reserve(session, new)
    checkpoint = last_checkpoint(session, job.id) if job.epoch else None
    run = _new_row(session, new, job.id, job.epoch)
    run.owner_type, run.owner_id, run.owner_name = "job", job.id, job.name
    run.project, run.kind = job.project, job.kind
    run.resume_checkpoint = checkpoint.id if checkpoint else None
    run.resumed_from_step = checkpoint.step if checkpoint else None
    hosts = len({placement.node_id for placement in new.placements})
    move_job(
        session,
        job,
        JobEvent.PLACED,
        message=f"{len(new.placements)} ranks on {hosts} machines of cluster {new.cluster}",
        lease_id=lease_id,
        values={"epoch": run.epoch, "run_id": run.id, "restart_at": None},
    )
    return _insert(session, run, new)


def start_replica(session: Session, service: ServiceRow, new: NewRun) -> RunRow:
    """Create a replica's run by compare-and-swap on the service's epoch and version.

    Raises StaleRow or CapacityTaken like `start_job`.
    """
    _reserve(session, new)
    result = session.execute(
        update(ServiceRow)
        .where(
            ServiceRow.id == service.id,
            ServiceRow.epoch == service.epoch,
            ServiceRow.version == service.version,
            ServiceRow.desired == "run",
        )
        .values(epoch=next_epoch(session, service.epoch))
        .execution_options(synchronize_session=False)
    )
    assert isinstance(result, CursorResult)
    if result.rowcount != 1:
        raise StaleRow(f"service {service.id} changed since epoch {service.epoch}")
    run = _new_row(session, new, service.id, service.epoch)
    run.owner_type, run.owner_id, run.owner_name = "service", service.id, service.name
    run.project, run.kind = service.project, "service"
    session.refresh(service)
    return _insert(session, run, new)


def _new_row(session: Session, new: NewRun, owner_id: str, newest: int) -> RunRow:
    epoch, attempt = next_epoch(session, newest), newest + 1
    if epoch != attempt:  # a backup was restored since: epochs have jumped, attempts have not
        runs = select(func.count()).select_from(RunRow).where(RunRow.owner_id == owner_id)
        attempt = 1 + (session.scalar(runs) or 0)
    return RunRow(
        id=new_id("run"),
        epoch=epoch,
        generation=generation(session),
        attempt=attempt,
        cluster=new.cluster,
        spec=new.spec,
        placements=[placement.model_dump(mode="json") for placement in new.placements],
        inputs=new.inputs,
        revision=new.revision,
        full_ranks=new.full_ranks,
    )


def _insert(session: Session, run: RunRow, new: NewRun) -> RunRow:
    session.add(run)
    session.flush()
    append_event(
        session,
        type="run.assigned",
        subject=f"{run.owner_type}/{run.owner_name}",
        subject_id=run.owner_id,
        project=run.project,
        message=f"run {run.epoch} assigned to cluster {run.cluster}"
        + (f", resumes after step {run.resumed_from_step}" if run.resume_checkpoint else ""),
        actor=ACTOR,
        data={"run_id": run.id, "epoch": run.epoch, "ranks": len(run.placements)},
    )
    _take(session, new)
    return run


@dataclass
class _Room:
    """What a cluster has to give, under its lock."""

    connected: bool
    told: bool
    """Its agent has been heard since the last restore of the database."""
    slots: dict[str, int]
    """By node, of those that take work."""
    used: dict[str, int]


def hold_capacity(session: Session, clusters: Iterable[str]) -> None:
    """Lock clusters until the transaction's end and count what is free once, for all runs that it
    creates. Call it before any savepoint: rolling one back would give the lock away."""
    for cluster in sorted(set(clusters)):
        session.info.setdefault(_ROOMS, {})[cluster] = _room(session, cluster)


def _room(session: Session, cluster: str) -> _Room:
    found = session.execute(
        select(ClusterRow.phase, ClusterRow.generation)
        .where(ClusterRow.name == cluster)
        .with_for_update()
    ).one_or_none()
    nodes = session.execute(
        select(NodeRow.id, NodeRow.slots).where(
            NodeRow.cluster == cluster,
            NodeRow.phase == "alive",
            NodeRow.cordoned.is_(False),
            NodeRow.quarantined.is_(False),
        )
    )
    used: dict[str, int] = {}
    for placements in session.scalars(
        select(RunRow.placements).where(RunRow.cluster == cluster, _holds())
    ):
        for placement in placements:
            node = placement["node_id"]
            used[node] = used.get(node, 0) + int(placement.get("slots", 1))
    return _Room(
        connected=found is not None and found.phase == "connected",
        told=found is not None and found.generation >= generation(session),
        slots={row.id: row.slots for row in nodes},
        used=used,
    )


def _reserve(session: Session, new: NewRun) -> None:
    """Check the plan against the capacity of this moment, one creator a cluster at a time."""
    held: dict[str, _Room] = session.info.get(_ROOMS, {})
    room = held.get(new.cluster) or _room(session, new.cluster)
    if not room.connected:
        raise CapacityTaken(f"cluster {new.cluster} is not connected any more")
    if not room.told:
        raise CapacityTaken(f"cluster {new.cluster} has not told what lives there since a restore")
    for node_id, slots in slots_used_by(new.placements).items():
        if node_id not in room.slots:
            raise CapacityTaken(f"node {node_id} takes no work any more")
        if room.used.get(node_id, 0) + slots > room.slots[node_id]:
            raise CapacityTaken(f"node {node_id} has fewer than {slots} slots free")


def _take(session: Session, new: NewRun) -> None:
    held: dict[str, _Room] = session.info.get(_ROOMS, {})
    if (room := held.get(new.cluster)) is not None:
        for node_id, slots in slots_used_by(new.placements).items():
            room.used[node_id] = room.used.get(node_id, 0) + slots


def slots_used_by(placements: Iterable[RankPlacement]) -> Mapping[str, int]:
    """Slots that one gang wants of each node."""
    wanted: dict[str, int] = {}
    for placement in placements:
        wanted[placement.node_id] = wanted.get(placement.node_id, 0) + placement.slots
    return wanted
