"""The creation of runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import CursorResult, func, insert, select, update
from sqlalchemy.orm import Session

from quarterdeck.lifecycle.job import JobEvent
from quarterdeck.specs.protocol import RankPlacement
from quarterdeck.store.capacity import count_placed, reserve
from quarterdeck.store.errors import StaleRow
from quarterdeck.store.ids import new_id
from quarterdeck.store.outbox import Fact, append_events
from quarterdeck.store.settings import generation, next_epoch
from quarterdeck.store.tables import CheckpointRow, JobRow, RunRow, ServiceRow
from quarterdeck.store.transitions import ACTOR, JobMove, move_job, move_jobs


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
    clusters: Mapping[str, str] = field(default_factory=dict)
    """Why this cluster, and none of the others."""
    domain: str = ""
    """The narrowest part of the network that has all of its machines, where there are several."""


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
    reserve(session, new.cluster, job.project, new.placements)
    checkpoint = last_checkpoint(session, job.id) if job.epoch else None
    run = _of_job(_new_row(session, new, job.id, job.epoch), job)
    run.resume_checkpoint = checkpoint.id if checkpoint else None
    run.resumed_from_step = checkpoint.step if checkpoint else None
    move = _placed(job, run)
    move_job(
        session, job, move.event, message=move.message, lease_id=lease_id, values=dict(move.values)
    )
    _insert(session, [(run, new)])
    return run


def start_jobs(
    session: Session, starts: Sequence[tuple[JobRow, NewRun]], *, lease_id: str
) -> list[RunRow]:
    """`start_job` of several jobs that never ran, in few statements: all of them or, where it
    raises StaleRow or CapacityTaken, none."""
    assert all(job.epoch == 0 for job, _ in starts), "a job that ran resumes: start_job"
    now = generation(session)
    runs = []
    for job, new in starts:
        reserve(session, new.cluster, job.project, new.placements)
        runs.append(_of_job(_row(new, next_epoch(0, now), 1, now), job))
    moves = [_placed(job, run) for (job, _), run in zip(starts, runs, strict=True)]
    move_jobs(session, moves, lease_id=lease_id)
    _insert(session, list(zip(runs, (new for _, new in starts), strict=True)))
    return runs


def _of_job(run: RunRow, job: JobRow) -> RunRow:
    run.owner_type, run.owner_id, run.owner_name = "job", job.id, job.name
    run.project, run.kind = job.project, job.kind
    return run


def _placed(job: JobRow, run: RunRow) -> JobMove:
    hosts = len({placement["node_id"] for placement in run.placements})
    message = f"{len(run.placements)} ranks on {hosts} machines of cluster {run.cluster}"
    if held := _held_by_role(run):
        parts = (f"{one['slots']} {one['accelerator']} for {role}" for role, one in held.items())
        message += f": {', '.join(parts)}"
    values = {"epoch": run.epoch, "run_id": run.id, "restart_at": None}
    return JobMove(job, JobEvent.PLACED, message, values)


def _held_by_role(run: RunRow) -> dict[str, dict[str, Any]]:
    """Slots and accelerator of each role of a gang that has some."""
    held: dict[str, dict[str, Any]] = {}
    for place in run.placements if run.spec.get("roles") else ():
        nothing = {"accelerator": place["accelerator"], "slots": 0}
        held.setdefault(place["role"], nothing)["slots"] += place["slots"]
    return held


def start_replica(session: Session, service: ServiceRow, new: NewRun) -> RunRow:
    """Create a replica's run by compare-and-swap on the service's epoch and version.

    Raises StaleRow or CapacityTaken like `start_job`.
    """
    reserve(session, new.cluster, service.project, new.placements)
    result = session.execute(
        update(ServiceRow)
        .where(
            ServiceRow.id == service.id,
            ServiceRow.epoch == service.epoch,
            ServiceRow.version == service.version,
            ServiceRow.desired == "run",
        )
        .values(epoch=next_epoch(service.epoch, generation(session)))
        .execution_options(synchronize_session=False)
    )
    assert isinstance(result, CursorResult)
    if result.rowcount != 1:
        raise StaleRow(f"service {service.id} changed since epoch {service.epoch}")
    run = _new_row(session, new, service.id, service.epoch)
    run.owner_type, run.owner_id, run.owner_name = "service", service.id, service.name
    run.project, run.kind = service.project, "service"
    session.refresh(service)
    _insert(session, [(run, new)])
    return run


def _new_row(session: Session, new: NewRun, owner_id: str, newest: int) -> RunRow:
    now = generation(session)
    epoch, attempt = next_epoch(newest, now), newest + 1
    if epoch != attempt:  # a backup was restored since: epochs have jumped, attempts have not
        runs = select(func.count()).select_from(RunRow).where(RunRow.owner_id == owner_id)
        attempt = 1 + (session.scalar(runs) or 0)
    return _row(new, epoch, attempt, now)


def _row(new: NewRun, epoch: int, attempt: int, born_in: int) -> RunRow:
    return RunRow(
        id=new_id("run"),
        epoch=epoch,
        generation=born_in,
        attempt=attempt,
        cluster=new.cluster,
        spec=new.spec,
        placements=[placement.model_dump(mode="json") for placement in new.placements],
        inputs=new.inputs,
        revision=new.revision,
        full_ranks=new.full_ranks,
    )


def _insert(session: Session, runs: Sequence[tuple[RunRow, NewRun]]) -> None:
    # Not by session.add: that reads back each row's defaults, which nobody needs here.
    written = [
        {name: value for name, value in vars(run).items() if not name.startswith("_")}
        for run, _ in runs
    ]
    session.execute(insert(RunRow), written)
    append_events(session, [_assigned(run, new) for run, new in runs])
    for cluster, count in Counter(run.cluster for run, _ in runs).items():
        count_placed(session, cluster, count)


def _assigned(run: RunRow, new: NewRun) -> Fact:
    resumes = f", resumes after step {run.resumed_from_step}" if run.resume_checkpoint else ""
    data = {"run_id": run.id, "epoch": run.epoch, "ranks": len(run.placements)}
    if held := _held_by_role(run):
        data["roles"] = held
    if new.clusters:
        data["clusters"] = dict(new.clusters)
    within = ""
    if new.domain:
        data["topology"] = new.domain
        within = f", all within {new.domain}"
    return Fact(
        type="run.assigned",
        subject=f"{run.owner_type}/{run.owner_name}",
        subject_id=run.owner_id,
        project=run.project,
        message=f"run {run.epoch} assigned to cluster {run.cluster}{within}{resumes}",
        actor=ACTOR,
        data=data,
    )
