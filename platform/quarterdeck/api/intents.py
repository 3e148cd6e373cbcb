"""What people may want of a job that exists: cancel, suspend, resume, retry."""

from __future__ import annotations

from quarterdeck.api.auth import Caller
from quarterdeck.api.documents import Document, document_of, refuse
from quarterdeck.api.fitting import Judgement
from quarterdeck.api.problems import ProblemError
from quarterdeck.api.resolution import Resolver
from quarterdeck.api.submission import insert_job
from quarterdeck.api.workdirs import check_workdirs
from quarterdeck.artifacts import ArtifactStore
from quarterdeck.specs.suggestions import DocumentError, parse_document
from quarterdeck.store import array_rows, job_queries
from quarterdeck.store.job_queries import ENDED
from quarterdeck.store.sessions import Database, Session
from quarterdeck.store.tables import JobRow


def cancel(session: Session, caller: Caller, row: JobRow) -> None:
    """Want its end; cancelling a cancelled job changes nothing. Raises `job_ended`."""
    if row.phase == "cancelled":
        return
    _check_live(row, "cancelled")
    job_queries.wish(session, row, "cancel", actor=caller.actor)


def suspend(session: Session, caller: Caller, row: JobRow) -> None:
    """Want it to checkpoint and free its slots. Raises `job_ended`."""
    _check_live(row, "suspended")
    job_queries.wish(session, row, "suspend", actor=caller.actor)


def resume(session: Session, caller: Caller, row: JobRow) -> None:
    """Want it to go on. Raises `job_ended`."""
    _check_live(row, "resumed")
    job_queries.wish(session, row, "run", actor=caller.actor)


def check_retry(
    database: Database, artifacts: ArtifactStore, caller: Caller, job: str, project: str
) -> None:
    """Hold what an ended job was sent with, for its next. Raises NotFound, and ProblemError
    `invalid_document` when that is gone."""
    with database.read() as session:
        row = job_queries.get_job(session, job, project)
        caller.check_project(row.project)
    if row.phase in ENDED:
        check_workdirs(database, [_document(row)], artifacts)


def retry(session: Session, caller: Caller, row: JobRow) -> JobRow:
    """Submit the same spec again as a new job, whose references are looked up anew.

    Raises `job_not_ended`, or `invalid_document` when a reference is gone, or when the stored
    spec is not valid any more.
    """
    if row.phase not in ENDED:
        raise ProblemError(
            "job_not_ended",
            f"job/{row.name} is {row.phase}: cancel it, or wait for its end, then retry",
        )
    document = _document(row)
    resolved = Resolver(session, {}, {}).resolve(document)
    if resolved.errors:
        raise refuse(resolved.errors)
    members = array_rows.members_of(session, row.id)
    same = [_same(one) for one in members or [row]]
    return insert_job(session, document, resolved.edges, same, actor=caller.actor, retry_of=row.id)


def _document(row: JobRow) -> Document:
    try:
        return document_of(parse_document(row.spec, ""))
    except DocumentError as error:
        # A version since may have made a rule stricter, or taken a field away.
        raise refuse(error.errors) from error


def _check_live(row: JobRow, verb: str) -> None:
    if row.phase in ENDED:
        raise ProblemError(
            "job_ended", f"job/{row.name} has {row.phase} and cannot be {verb}: retry it instead"
        )
    if row.desired == "cancel" and verb != "cancelled":
        raise ProblemError(
            "job_ended", f"job/{row.name} is being cancelled and cannot be {verb}: retry it then"
        )


def _same(row: JobRow) -> Judgement:
    """What the planner made of a job before."""
    return Judgement(row.ranks, row.layout, smaller_layouts=row.smaller_layouts)
