"""Jobs: submitted, listed, read, and what people want of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Response

from quarterdeck.api import intents
from quarterdeck.api.auth import Caller, Operator, ProjectQuery, Viewer
from quarterdeck.api.documents import refuse
from quarterdeck.api.examples import COMMAND
from quarterdeck.api.idempotency import Creating, once
from quarterdeck.api.parameters import Cursor, Identity, Limit, etag
from quarterdeck.api.problems import documented
from quarterdeck.api.state import ApiState, State
from quarterdeck.api.strict_json import StrictRoute
from quarterdeck.api.submission import Wishes, prepare, submit
from quarterdeck.api.views import job_view
from quarterdeck.api.waits import reason_of
from quarterdeck.specs import resources as r
from quarterdeck.specs.base import NAME_PATTERN
from quarterdeck.store import job_queries
from quarterdeck.store.sessions import Session
from quarterdeck.store.tables import JobRow

router = APIRouter(prefix="/jobs", route_class=StrictRoute, tags=["jobs"])
_READ = documented("key_unknown", "access_denied", "not_found")
_ACT = documented("key_unknown", "access_denied", "not_found", "job_ended")


def show(session: Session, row: JobRow) -> r.Job:
    """One job with what other tables know of it."""
    return job_view(row, job_queries.sums_of(session, [row.id])[row.id])


def read_job(session: Session, caller: Caller, job: str, project: str | None) -> JobRow:
    """The job, which the caller may see. Raises NotFound and ProblemError."""
    row = job_queries.get_job(session, job, caller.named_in(project))
    caller.check_project(row.project)
    return row


@router.post(
    "",
    response_model=r.Job,
    status_code=201,
    responses=documented(
        "key_unknown", "access_denied", "invalid_document", "does_not_fit",
        "idempotency_key_reused",
    ),
)  # fmt: skip
def submit_job(
    state: State,
    caller: Operator,
    creation: Creating,
    document: Annotated[dict[str, Any], Body(examples=[COMMAND])],
    project: ProjectQuery = None,
    force: Annotated[
        bool, Query(description="Submit although the planner says that it cannot fit.")
    ] = False,
) -> Any:
    """Submit one job; unlike apply it makes a new one each time."""
    wishes = Wishes(force=force, always_new=True)
    home = caller.named_in(project)
    prepared = prepare(
        state.database, caller, [document], home, wishes, artifacts=state.artifacts, root=""
    )
    one = prepared.documents[0]
    if not one.is_job:
        message = "a service is no job: apply it"
        raise refuse([one.problem("kind", message)])

    def work(session: Session) -> r.Job:
        done = submit(session, caller, prepared, wishes)[one.path]
        row = session.get_one(JobRow, done.id)
        # A new job has nothing in other tables, except an array its members.
        return show(session, row) if one.members else job_view(row, job_queries.JobSums())

    return once(state, caller, creation, r.Job, work)


@router.get("", response_model=r.Page[r.Job], responses=_READ)
def list_jobs(
    state: State,
    caller: Viewer,
    project: ProjectQuery = None,
    phase: Annotated[r.JobPhase | None, Query()] = None,
    kind: Annotated[str | None, Query(max_length=40)] = None,
    name: Annotated[str | None, Query(pattern=NAME_PATTERN)] = None,
    array: Annotated[
        str | None, Query(max_length=200, description="Members of this array, by its id or name.")
    ] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Any:
    """Jobs, newest first. An array stands for its members: `array` or `name` asks for those."""
    with state.database.read() as session:
        if array is not None:
            array = read_job(session, caller, array, project).id
        rows, following = job_queries.list_jobs(
            session, project=caller.listed(project), phase=phase, kind=kind, name=name,
            array=array, cursor=cursor, limit=limit,
        )  # fmt: skip
        sums = job_queries.sums_of(session, [row.id for row in rows])
    return r.Page(items=[job_view(row, sums[row.id]) for row in rows], next_cursor=following)


@router.get("/{id}", response_model=r.Job, responses=_READ)
def get_job(
    id: Identity, state: State, caller: Viewer, response: Response, project: ProjectQuery = None
) -> Any:
    """One job by its id, or the newest of that name."""
    with state.database.read() as session:
        row = read_job(session, caller, id, project)
        response.headers["ETag"] = etag(row.version)
        return show(session, row)


def _want(
    state: ApiState,
    caller: Caller,
    job: str,
    project: str | None,
    intent: Callable[[Session, Caller, JobRow], None],
) -> r.Job:
    home = caller.named_in(project)
    with state.database.write() as session:
        row = job_queries.get_job(session, job, home, lock=True)
        caller.check_project(row.project)
        intent(session, caller, row)
        return show(session, row)


@router.post("/{id}/cancel", response_model=r.Job, responses=_ACT)
def cancel_job(id: Identity, state: State, caller: Operator, project: ProjectQuery = None) -> Any:
    """Want its end: a training writes a checkpoint, then its gang stops."""
    return _want(state, caller, id, project, intents.cancel)


@router.post("/{id}/suspend", response_model=r.Job, responses=_ACT)
def suspend_job(id: Identity, state: State, caller: Operator, project: ProjectQuery = None) -> Any:
    """Want it to write a checkpoint and free its slots until it is resumed."""
    return _want(state, caller, id, project, intents.suspend)


@router.post("/{id}/resume", response_model=r.Job, responses=_ACT)
def resume_job(id: Identity, state: State, caller: Operator, project: ProjectQuery = None) -> Any:
    """Want a suspended job to go on."""
    return _want(state, caller, id, project, intents.resume)


@router.post(
    "/{id}/retry",
    response_model=r.Job,
    responses=documented(
        "key_unknown", "access_denied", "not_found", "job_not_ended", "invalid_document",
        "idempotency_key_reused",
    ),
)  # fmt: skip
def retry_job(
    id: Identity, state: State, caller: Operator, creation: Creating, project: ProjectQuery = None
) -> Any:
    """Run an ended job's spec again, as a new job."""
    home = caller.named_in(project)
    intents.check_retry(state.database, state.artifacts, caller, id, home)

    def work(session: Session) -> r.Job:
        row = job_queries.get_job(session, id, home)
        caller.check_project(row.project)
        return show(session, intents.retry(session, caller, row))

    return once(state, caller, creation, r.Job, work)


@router.get("/{id}/why", response_model=r.Why, responses=_READ)
def why_job(id: Identity, state: State, caller: Viewer, project: ProjectQuery = None) -> Any:
    """Why it is in the state it is in."""
    with state.database.read() as session:
        return reason_of(session, read_job(session, caller, id, project))
