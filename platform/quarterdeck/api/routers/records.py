"""What happened: events, logs, metrics, checkpoints and runs, of jobs, services and of all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Depends, Query, Request

from quarterdeck.api.auth import Caller, ProjectQuery, Viewer
from quarterdeck.api.log_reader import Match
from quarterdeck.api.log_search import matcher
from quarterdeck.api.parameters import (
    LARGEST_INT,
    AsRegex,
    Cursor,
    Epoch,
    Follow,
    Identity,
    LastEventId,
    Limit,
    LogLimit,
    LogStream,
    Ranks,
    Search,
    Since,
    Tail,
    since_seconds,
)
from quarterdeck.api.problems import documented
from quarterdeck.api.records import event_look, event_page, log_look, log_page
from quarterdeck.api.routers.jobs import read_job
from quarterdeck.api.routers.services import read_service
from quarterdeck.api.state import ApiState, State
from quarterdeck.api.streams import stream, wants_stream
from quarterdeck.api.strict_json import StrictRoute
from quarterdeck.api.views import checkpoint_view, metrics_view, run_view
from quarterdeck.specs import resources as r
from quarterdeck.store import job_queries, record_queries, run_queries
from quarterdeck.store.log_queries import LogFilter
from quarterdeck.store.sessions import Session

router = APIRouter(route_class=StrictRoute, tags=["records"])
_READ = documented("key_unknown", "access_denied", "not_found")
_MESSAGE = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in ("id", "event", "data")},
    "required": ["data"],
}
_SSE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A page, or server-sent events",
        "content": {"text/event-stream": {"schema": _MESSAGE}},
    },
    **documented("key_unknown", "access_denied", "not_found", "too_many_streams"),
}
_LOGS = {
    **_SSE,
    **documented(
        "key_unknown", "access_denied", "not_found", "too_many_streams", "artifacts_unavailable"
    ),
}


@router.get("/events", response_model=r.Page[r.Event], responses=_SSE)
async def list_events(
    request: Request,
    state: State,
    caller: Viewer,
    project: ProjectQuery = None,
    limit: Limit = 100,
    cursor: Cursor = None,
    follow: Follow = False,
    last_event_id: LastEventId = None,
) -> Any:
    """Events of everything that the key may see, oldest first."""
    scope = caller.listed(project)
    if wants_stream(request, follow):
        return await stream(state, event_look(state.database, project=scope), last_event_id)
    return await to_thread.run_sync(
        lambda: event_page(state.database, cursor, limit, project=scope)
    )


def _job_id(state: ApiState, caller: Caller, job: str, project: str | None) -> str:
    with state.database.read() as session:
        return read_job(session, caller, job, project).id


def _service_id(state: ApiState, caller: Caller, service: str, project: str | None) -> str:
    with state.database.read() as session:
        return read_service(session, caller, service, project).id


def _job_ended(session: Session, job_id: str) -> bool:
    return job_queries.get_job(session, job_id, "").phase in job_queries.ENDED


@router.get("/jobs/{id}/events", response_model=r.Page[r.Event], responses=_SSE)
async def job_events(
    id: Identity,
    request: Request,
    state: State,
    caller: Viewer,
    project: ProjectQuery = None,
    limit: Limit = 100,
    cursor: Cursor = None,
    follow: Follow = False,
    last_event_id: LastEventId = None,
) -> Any:
    """What happened to a job, oldest first; a stream ends after the job's end."""
    owner = await to_thread.run_sync(_job_id, state, caller, id, project)
    if wants_stream(request, follow):
        look = event_look(
            state.database, subject_id=owner, ended=lambda session: _job_ended(session, owner)
        )
        return await stream(state, look, last_event_id)
    return await to_thread.run_sync(
        lambda: event_page(state.database, cursor, limit, subject_id=owner)
    )


@router.get("/services/{id}/events", response_model=r.Page[r.Event], responses=_SSE)
async def service_events(
    id: Identity,
    request: Request,
    state: State,
    caller: Viewer,
    project: ProjectQuery = None,
    limit: Limit = 100,
    cursor: Cursor = None,
    follow: Follow = False,
    last_event_id: LastEventId = None,
) -> Any:
    """What happened to a service, oldest first."""
    owner = await to_thread.run_sync(_service_id, state, caller, id, project)
    if wants_stream(request, follow):
        return await stream(state, event_look(state.database, subject_id=owner), last_event_id)
    return await to_thread.run_sync(
        lambda: event_page(state.database, cursor, limit, subject_id=owner)
    )


@dataclass(frozen=True)
class LogChoice:
    """Which lines are wanted, whoever's; `of` adds the owner."""

    wanted: LogFilter
    match: Match | None

    def of(self, owner_id: str) -> LogFilter:
        return replace(self.wanted, owner_id=owner_id)


def _log_choice(
    state: State,
    rank: Ranks = None,
    epoch: Epoch = None,
    log_stream: Annotated[LogStream, Query(alias="stream")] = None,
    since: Since = None,
    search: Search = None,
    regex: AsRegex = False,
) -> LogChoice:
    wanted = LogFilter(
        "", ranks=None if rank is None else frozenset(rank), epoch=epoch, stream=log_stream,
        since=since_seconds(since, state.settings.clock().timestamp()),
    )  # fmt: skip
    return LogChoice(wanted, matcher(search, as_regex=regex))


Chosen = Annotated[LogChoice, Depends(_log_choice)]


@router.get("/jobs/{id}/logs", response_model=r.Page[r.LogLine], responses=_LOGS)
async def job_logs(
    id: Identity,
    request: Request,
    state: State,
    caller: Viewer,
    chosen: Chosen,
    project: ProjectQuery = None,
    tail: Tail = None,
    limit: LogLimit = 100,
    cursor: Cursor = None,
    follow: Follow = False,
    last_event_id: LastEventId = None,
) -> Any:
    """Lines of a job's ranks as they arrived; a stream ends after the job's end. A page may be
    short or empty and have a next one: what one page searches is bounded."""
    owner = await to_thread.run_sync(_job_id, state, caller, id, project)
    wanted, match = chosen.of(owner), chosen.match
    if wants_stream(request, follow):

        def ended(session: Session) -> bool:
            return _job_ended(session, owner)

        look = log_look(state.database, state.logs, wanted, match, tail, ended)
        return await stream(state, look, last_event_id)
    return await to_thread.run_sync(log_page, state.logs, wanted, match, cursor, limit, tail)


@router.get("/services/{id}/logs", response_model=r.Page[r.LogLine], responses=_LOGS)
async def service_logs(
    id: Identity,
    request: Request,
    state: State,
    caller: Viewer,
    chosen: Chosen,
    project: ProjectQuery = None,
    tail: Tail = None,
    limit: LogLimit = 100,
    cursor: Cursor = None,
    follow: Follow = False,
    last_event_id: LastEventId = None,
) -> Any:
    """Lines of a service's engines as they arrived."""
    owner = await to_thread.run_sync(_service_id, state, caller, id, project)
    wanted, match = chosen.of(owner), chosen.match
    if wants_stream(request, follow):
        look = log_look(state.database, state.logs, wanted, match, tail, lambda session: False)
        return await stream(state, look, last_event_id)
    return await to_thread.run_sync(log_page, state.logs, wanted, match, cursor, limit, tail)


@router.get("/jobs/{id}/metrics", response_model=r.Page[r.MetricPoint], responses=_READ)
def job_metrics(
    id: Identity,
    state: State,
    caller: Viewer,
    project: ProjectQuery = None,
    after_step: Annotated[int | None, Query(ge=-1, le=LARGEST_INT)] = None,
    keys: Annotated[
        str | None, Query(max_length=1000, description="Names of metrics, with commas between.")
    ] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Any:
    """Metrics by step; of a step that was done again only the latest."""
    chosen = [key.strip() for key in keys.split(",")] if keys else None
    with state.database.read() as session:
        row = read_job(session, caller, id, project)
        rows, following = record_queries.list_metrics(
            session, row.id, after_step=after_step, cursor=cursor, limit=limit
        )
    return r.Page(items=[metrics_view(row, chosen) for row in rows], next_cursor=following)


@router.get("/jobs/{id}/runs", response_model=r.Page[r.Run], responses=_READ)
def job_runs(
    id: Identity,
    state: State,
    caller: Viewer,
    project: ProjectQuery = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Any:
    """A job's attempts, newest first."""
    with state.database.read() as session:
        row = read_job(session, caller, id, project)
        rows, following = run_queries.list_runs(
            session, project=None, owner_id=row.id, cursor=cursor, limit=limit
        )
    return r.Page(items=[run_view(row) for row in rows], next_cursor=following)


@router.get("/runs", response_model=r.Page[r.Run], responses=_READ)
def list_runs(
    state: State,
    caller: Viewer,
    project: ProjectQuery = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Any:
    """Runs of jobs and services, newest first."""
    with state.database.read() as session:
        rows, following = run_queries.list_runs(
            session, project=caller.listed(project), cursor=cursor, limit=limit
        )
    return r.Page(items=[run_view(row) for row in rows], next_cursor=following)


@router.get("/runs/{id}", response_model=r.Run, responses=_READ)
def get_run(id: Identity, state: State, caller: Viewer) -> Any:
    """One run by its id."""
    with state.database.read() as session:
        row = run_queries.get_run(session, id)
    caller.check_project(row.project)
    return run_view(row)


@router.get("/jobs/{id}/checkpoints", response_model=r.Page[r.Checkpoint], responses=_READ)
def job_checkpoints(
    id: Identity,
    state: State,
    caller: Viewer,
    project: ProjectQuery = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Any:
    """A job's checkpoints, newest first."""
    with state.database.read() as session:
        row = read_job(session, caller, id, project)
        rows, following = record_queries.list_checkpoints(
            session, project=None, job_id=row.id, cursor=cursor, limit=limit
        )
    return r.Page(items=[checkpoint_view(row) for row in rows], next_cursor=following)


@router.get("/checkpoints", response_model=r.Page[r.Checkpoint], responses=_READ)
def list_checkpoints(
    state: State,
    caller: Viewer,
    project: ProjectQuery = None,
    job: Annotated[str | None, Query(max_length=128, description="Of this job only.")] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Any:
    """Checkpoints that exist, newest first."""
    with state.database.read() as session:
        chosen = read_job(session, caller, job, project).id if job else None
        scope = None if chosen else caller.listed(project)
        rows, following = record_queries.list_checkpoints(
            session, project=scope, job_id=chosen, cursor=cursor, limit=limit
        )
    return r.Page(items=[checkpoint_view(row) for row in rows], next_cursor=following)


@router.get("/checkpoints/{id}", response_model=r.Checkpoint, responses=_READ)
def get_checkpoint(id: Identity, state: State, caller: Viewer) -> Any:
    """One checkpoint by its id, with its manifest."""
    with state.database.read() as session:
        row = record_queries.get_checkpoint(session, id)
    caller.check_project(row.project)
    return checkpoint_view(row)
