"""Making the row of a living supervisor's run again, which a restored backup does not have.

Only controllers call this, in a write transaction for each orphan.
"""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from quarterdeck.lifecycle.job import JOB, JobEvent
from quarterdeck.lifecycle.run import ENDED, RunEvent
from quarterdeck.specs.protocol import SupervisorReport
from quarterdeck.store.capacity import count_placed
from quarterdeck.store.columns import database_now
from quarterdeck.store.ids import new_id, next_ordinal
from quarterdeck.store.outbox import append_event
from quarterdeck.store.settings import generation
from quarterdeck.store.tables import (
    JobRow,
    KeyRow,
    OrphanRow,
    ProjectRow,
    RevisionRow,
    RunRow,
    ServiceRow,
)
from quarterdeck.store.transitions import ACTOR, move_job, move_run

REASON = "RestoredBackup"
_TO_QUEUED = {
    "waiting": (JobEvent.RESOLVED,),
    "queued": (),
    "suspended": (JobEvent.RESUMED,),
    "starting": (JobEvent.RESTART,),
    "running": (JobEvent.RESTART,),
    "stopping": (JobEvent.SUSPENDED, JobEvent.RESUMED),
}
"""The way of a job to the phase in which it takes a run."""


class _Unfit(Exception):
    """The orphan's owner cannot take it; the text says why."""


def adopt(session: Session, run_id: str, epoch: int) -> bool:
    """Give an orphan its row back; False when it is gone, or its owner cannot take it, which its
    row then says. Raises StaleRow when the owner changed meanwhile."""
    orphan = session.get(OrphanRow, (run_id, epoch), with_for_update=True)
    if orphan is None or orphan.description is None:
        return False
    report = SupervisorReport.model_validate(orphan.description)
    try:
        _adopt(session, orphan, report)
    except _Unfit as unfit:
        orphan.detail = str(unfit)
        return False
    session.delete(orphan)
    return True


def _adopt(session: Session, orphan: OrphanRow, report: SupervisorReport) -> None:
    run = session.get(RunRow, report.run_id)
    if run is not None and run.claimed_by is not None:
        return  # claimed between the agent's look and now
    if run is not None and (run.epoch != report.epoch or run.phase in ENDED):
        raise _Unfit(f"its row says: epoch {run.epoch}, {run.phase} ({run.reason})")
    if run is None:
        revision = None
        if report.owner_type == "job":
            _take_by_job(session, report)
        else:
            revision = _take_by_service(session, report)
        run = _remake_run(session, report, revision)
    run.claimed_by = orphan.agent_id
    run.claimed_at = report.started_at or database_now()
    run.generation = generation(session)
    run.refused = None
    run.version += 1
    _add_key(session, run, report)
    append_event(
        session,
        type="run.adopted",
        subject=f"{run.owner_type}/{run.owner_name}",
        subject_id=run.owner_id,
        project=run.project,
        message=f"run {run.epoch} lives on {run.cluster}: the restored backup takes it back",
        actor=ACTOR,
        data={"run_id": run.id, "epoch": run.epoch},
    )
    session.flush()


def _take_by_job(session: Session, report: SupervisorReport) -> None:
    """Make this the newest attempt of its job, which is made again where the backup lacks it."""
    job = session.get(JobRow, report.owner_id, with_for_update=True)
    if job is None:
        job = _remake_job(session, report)
    if job.phase in JOB.final:
        raise _Unfit(f"job/{job.name} has {job.phase} already")
    if job.epoch >= report.epoch:
        raise _Unfit(f"job/{job.name} is at epoch {job.epoch}")
    before = session.get(RunRow, job.run_id) if job.run_id else None
    words = f"epoch {report.epoch}, of which the restored backup did not know, lives"
    if before is not None and before.phase not in ENDED:
        move_run(session, before, RunEvent.LOST, reason=REASON, message=words)
    for event in _TO_QUEUED[job.phase]:
        move_job(session, job, event, reason=REASON, message=words)
    # A wish to suspend was fulfilled, and taken back, before this attempt could begin.
    desired = "run" if job.desired == "suspend" else job.desired
    values = {"epoch": report.epoch, "run_id": report.run_id, "desired": desired}
    move_job(session, job, JobEvent.PLACED, reason=REASON, message=words, values=values)


def _remake_job(session: Session, report: SupervisorReport) -> JobRow:
    if session.get(ProjectRow, report.project) is None:
        raise _Unfit(f"project {report.project} does not exist: create it")
    spec = report.spec
    job = JobRow(
        id=report.owner_id, name=report.owner_name, project=report.project, kind=report.kind,
        spec=spec, phase="queued", reason=REASON, queue=str(spec.get("queue") or "default"),
        priority=int(spec.get("priority") or 0), ordinal=next_ordinal(),
        ranks=len(report.placements), edges_bound=True,
    )  # fmt: skip
    session.add(job)
    session.flush()
    append_event(
        session, type="job.restored", subject=f"job/{job.name}", subject_id=job.id,
        project=job.project, message="the restored backup did not know it, its supervisor did",
        actor=ACTOR,
    )  # fmt: skip
    return job


def _take_by_service(session: Session, report: SupervisorReport) -> int:
    """Count the replica among its service's; the number of its revision."""
    service = session.get(ServiceRow, report.owner_id, with_for_update=True)
    if service is None or service.phase == "stopped":
        raise _Unfit(f"service/{report.owner_name} does not exist")
    taken = select(RunRow.id).where(RunRow.owner_id == service.id, RunRow.epoch == report.epoch)
    if session.scalars(taken).first() is not None:
        raise _Unfit(f"service/{report.owner_name} has another replica of epoch {report.epoch}")
    revisions = session.scalars(
        select(RevisionRow)
        .where(RevisionRow.service_id == service.id)
        .order_by(RevisionRow.revision.desc())
    )
    number = next((row.revision for row in revisions if row.spec == report.spec), None)
    if number is None:
        raise _Unfit(f"service/{report.owner_name} has no revision like it: apply the newer file")
    service.epoch = max(service.epoch, report.epoch)
    return number


def _remake_run(session: Session, report: SupervisorReport, revision: int | None) -> RunRow:
    run = RunRow(
        id=report.run_id, owner_type=report.owner_type, owner_id=report.owner_id,
        owner_name=report.owner_name, project=report.project, kind=report.kind,
        epoch=report.epoch, attempt=report.attempt, revision=revision, cluster=report.cluster,
        spec=report.spec, inputs=report.model_dump(mode="json")["inputs"],
        placements=[place.model_dump(mode="json") for place in report.placements],
        resume_checkpoint=report.resume_checkpoint, resumed_from_step=report.resumed_from_step,
        reason=REASON,
    )  # fmt: skip
    session.add(run)
    session.flush()
    count_placed(session, run.cluster)
    return run


def _add_key(session: Session, run: RunRow, report: SupervisorReport) -> None:
    known = select(KeyRow.id).where(KeyRow.sha256 == report.key_sha256)
    if session.scalars(known).first() is None:
        session.add(
            KeyRow(
                id=new_id("key"), name=f"run {run.id}", sha256=report.key_sha256, prefix="qdr_",
                access="run", project=run.project, run_id=run.id, epoch=run.epoch,
            )
        )  # fmt: skip
