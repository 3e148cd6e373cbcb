"""Services: read, changed with If-Match, scaled, removed."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Response
from pydantic import BaseModel, ConfigDict, Field

from quarterdeck.api.auth import Caller, Operator, ProjectQuery, Viewer
from quarterdeck.api.documents import read_documents, refuse
from quarterdeck.api.examples import SERVICE
from quarterdeck.api.fitting import read_fleet
from quarterdeck.api.parameters import Cursor, Identity, IfMatch, Limit, check_etag, etag
from quarterdeck.api.problems import ProblemError, documented
from quarterdeck.api.resolution import Resolver
from quarterdeck.api.rollouts import revision_view
from quarterdeck.api.share_fit import check_shares
from quarterdeck.api.state import State
from quarterdeck.api.strict_json import StrictRoute
from quarterdeck.api.submission import change_service
from quarterdeck.api.views import service_view
from quarterdeck.api.waits import reason_of_service
from quarterdeck.specs import resources as r
from quarterdeck.specs.rollout_status import Revision
from quarterdeck.store import service_queries
from quarterdeck.store.sessions import Session
from quarterdeck.store.tables import ServiceRow

router = APIRouter(prefix="/services", route_class=StrictRoute, tags=["services"])
_READ = documented("key_unknown", "access_denied", "not_found")


class Scale(BaseModel):
    """How many replicas are wanted."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"replicas": 2}]})

    replicas: int = Field(ge=0, le=1000)


def show(session: Session, row: ServiceRow) -> r.Service:
    """A service with its replicas."""
    steps = service_queries.chain_facts(session, [row]).get(row.id, ())
    return service_view(row, service_queries.replicas_of(session, [row.id])[row.id], steps)


def read_service(session: Session, caller: Caller, service: str, project: str | None) -> ServiceRow:
    """The service, which the caller may see. Raises NotFound and ProblemError."""
    row = service_queries.get_service(session, service, caller.named_in(project))
    caller.check_project(row.project)
    return row


def lock_service(session: Session, caller: Caller, service: str, project: str | None) -> ServiceRow:
    """The service to change, locked. Raises NotFound and ProblemError."""
    row = service_queries.get_service(session, service, caller.named_in(project), lock=True)
    caller.check_project(row.project)
    if row.desired == "stop" or row.phase == "stopped":
        raise ProblemError(
            "service_stopped", f"service/{row.name} is being removed: apply it again"
        )
    return row


@router.get(
    "", response_model=r.Page[r.Service], responses=documented("key_unknown", "access_denied")
)
def list_services(
    state: State,
    caller: Viewer,
    project: ProjectQuery = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Any:
    """Services that are not stopped, newest first."""
    with state.database.read() as session:
        rows, following = service_queries.list_services(
            session, caller.listed(project), cursor=cursor, limit=limit
        )
        replicas = service_queries.replicas_of(session, [row.id for row in rows])
        steps = service_queries.chain_facts(session, rows)
    items = [service_view(row, replicas[row.id], steps.get(row.id, ())) for row in rows]
    return r.Page(items=items, next_cursor=following)


@router.get("/{id}", response_model=r.Service, responses=_READ)
def get_service(
    id: Identity, state: State, caller: Viewer, response: Response, project: ProjectQuery = None
) -> Any:
    """One service; its ETag covers what people write."""
    with state.database.read() as session:
        row = read_service(session, caller, id, project)
        response.headers["ETag"] = etag(row.version)
        return show(session, row)


@router.put(
    "/{id}",
    response_model=r.Service,
    responses=documented(
        "key_unknown", "access_denied", "not_found", "service_stopped", "stale_etag",
        "invalid_document", "does_not_fit", "etag_required",
    ),
)  # fmt: skip
def put_service(
    id: Identity,
    state: State,
    caller: Operator,
    response: Response,
    document: Annotated[dict[str, Any], Body(examples=[SERVICE])],
    if_match: IfMatch = None,
    project: ProjectQuery = None,
) -> Any:
    """Replace a service's spec as it was read: a new revision, unless nothing differs."""
    home = caller.named_in(project)
    with state.database.write() as session:
        row = lock_service(session, caller, id, project)
        check_etag(if_match, etag(row.version), required=True)
        one = read_documents([{"project": home, **document}], row.project, root="")[0]
        if one.subject != ("service", row.project, row.name):
            noun, owner, name = one.subject
            message = (
                f"this is {noun}/{name} of {owner}, not service/{row.name} of {row.project}: "
                "a service keeps its kind, name and project"
            )
            raise refuse([one.problem("name", message)])
        resolved = Resolver(session, {}, {}).resolve(one)
        if resolved.errors:
            raise refuse(resolved.errors)
        check_shares(session, [one], read_fleet(session, row.project))
        change_service(session, row, one, actor=caller.actor)
        response.headers["ETag"] = etag(row.version)
        return show(session, row)


@router.post(
    "/{id}/scale",
    response_model=r.Service,
    responses=documented(
        "key_unknown", "access_denied", "not_found", "service_stopped", "stale_etag",
        "invalid_parameter",
    ),
)  # fmt: skip
def scale_service(
    id: Identity,
    body: Scale,
    state: State,
    caller: Operator,
    response: Response,
    if_match: IfMatch = None,
    project: ProjectQuery = None,
) -> Any:
    """Want another number of replicas; the next apply of the file wants the file's again."""
    with state.database.write() as session:
        row = lock_service(session, caller, id, project)
        check_etag(if_match, etag(row.version), required=False)
        if row.spec.get("chain"):
            message = (
                f"service/{row.name} is a chain, which has no replicas: scale the service of a step"
            )
            errors = [r.FieldProblem(path="replicas", message=message)]
            raise ProblemError("invalid_parameter", message, errors=errors)
        service_queries.scale_service(session, row, body.replicas, actor=caller.actor)
        response.headers["ETag"] = etag(row.version)
        return show(session, row)


@router.delete(
    "/{id}",
    status_code=204,
    response_class=Response,
    responses=documented("key_unknown", "access_denied", "not_found", "stale_etag"),
)
def delete_service(
    id: Identity,
    state: State,
    caller: Operator,
    if_match: IfMatch = None,
    project: ProjectQuery = None,
) -> None:
    """Drain its replicas, stop them, and forget the service. Repeating changes nothing."""
    with state.database.write() as session:
        row = service_queries.get_service(session, id, caller.named_in(project), lock=True)
        caller.check_project(row.project)
        check_etag(if_match, etag(row.version), required=False)
        service_queries.remove_service(session, row, actor=caller.actor)


@router.get("/{id}/revisions", response_model=r.Page[Revision], responses=_READ)
def list_revisions(
    id: Identity,
    state: State,
    caller: Viewer,
    project: ProjectQuery = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Any:
    """Every spec that the service had, newest first."""
    with state.database.read() as session:
        row = read_service(session, caller, id, project)
        rows, following = service_queries.list_revisions(
            session, row.id, cursor=cursor, limit=limit
        )
        items = [revision_view(session, row) for row in rows]
    return r.Page(items=items, next_cursor=following)


@router.get("/{id}/why", response_model=r.Why, responses=_READ)
def why_service(id: Identity, state: State, caller: Viewer, project: ProjectQuery = None) -> Any:
    """Why it is in the state it is in."""
    with state.database.read() as session:
        return reason_of_service(session, read_service(session, caller, id, project))
