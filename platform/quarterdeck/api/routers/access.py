"""Keys, secrets and projects: who may do what, and what jobs are given."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel, ConfigDict, Field

from quarterdeck.api.auth import Admin, Operator, ProjectQuery, Viewer
from quarterdeck.api.credentials import new_credential
from quarterdeck.api.idempotency import Creating, once
from quarterdeck.api.parameters import Cursor, Identity, Limit, NamePath
from quarterdeck.api.problems import ProblemError, documented
from quarterdeck.api.state import State
from quarterdeck.api.strict_json import StrictRoute
from quarterdeck.api.views import key_view, project_view, secret_view
from quarterdeck.specs import resources as r
from quarterdeck.specs.base import Name
from quarterdeck.specs.tenancy import Isolation
from quarterdeck.specs.units import Seconds
from quarterdeck.store import access_queries, key_queries
from quarterdeck.store.failures import Duplicate
from quarterdeck.store.sessions import Session
from quarterdeck.store.tenants import read_tenancy

router = APIRouter(route_class=StrictRoute, tags=["access"])
_LIST = documented("key_unknown", "access_denied")
_READ = documented("key_unknown", "access_denied", "not_found")
_CREATE = ("key_unknown", "access_denied", "invalid_document", "idempotency_key_reused")
YEARS_10 = 10 * 365 * 86_400.0
SecretName = Annotated[
    str, Path(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$", description="As specs name it.")
]


class KeyRequest(BaseModel):
    """A key to make; `expires_in` is a duration."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"name": "ada", "access": "operator"}]}
    )

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._@-]{0,99}$")]
    access: r.Access
    project: Name | None = None
    cluster: Name | None = None
    """Only for access `agent`: the one cluster that the key reaches; None: all."""
    expires_in: Annotated[Seconds, Field(gt=0, le=YEARS_10)] | None = None
    requests_per_minute: int | None = Field(default=None, ge=1, le=10**9)
    tokens_per_minute: int | None = Field(default=None, ge=1, le=10**12)
    streams: int | None = Field(default=None, ge=1, le=10**6)
    """Inference requests at once; gateways hold the key to these limits. None: no limit."""


class SecretValue(BaseModel):
    """A value, never shown again. Not in `repr`."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"value": "…"}]})

    value: Annotated[str, Field(max_length=65_536)] = Field(repr=False)


class ProjectRequest(BaseModel):
    """A project to make. With isolation `cluster` its runs go to clusters of its own alone."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"name": "nlp"}]})

    name: Name
    isolation: Isolation = "shared"


class ProjectChange(BaseModel):
    """What of a project can be changed. What runs goes on until it ends."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"isolation": "cluster"}]}
    )

    isolation: Isolation


@router.get("/whoami", response_model=r.Key, responses=_LIST)
def whoami(caller: Viewer) -> Any:
    """The key in use."""
    return key_view(caller.key)


@router.get("/keys", response_model=r.Page[r.Key], responses=_LIST)
def list_keys(state: State, caller: Admin, limit: Limit = 100, cursor: Cursor = None) -> Any:
    """Keys without their secrets, oldest first."""
    with state.database.read() as session:
        rows, following = key_queries.list_keys(session, caller.project, cursor=cursor, limit=limit)
    return r.Page(items=[key_view(row) for row in rows], next_cursor=following)


@router.post("/keys", response_model=r.NewKey, status_code=201, responses=documented(*_CREATE))
def create_key(body: KeyRequest, state: State, caller: Admin, creation: Creating) -> Any:
    """Make a key. This answer is the only one that shows it."""
    project = body.project or caller.project
    if project is not None:
        caller.check_project(project)
    if body.access == "agent":
        caller.check_everywhere()
    elif body.cluster is not None:
        message = f"cluster: only a key of access agent is bound to a cluster, not {body.access}"
        raise ProblemError("invalid_document", message)
    limits = body.model_dump(include={"requests_per_minute", "tokens_per_minute", "streams"})
    settings = state.settings
    lifetime = timedelta(seconds=body.expires_in) if body.expires_in is not None else None

    def work(session: Session) -> r.NewKey:
        if project is not None and not access_queries.project_exists(session, project):
            raise ProblemError("invalid_document", f"project: {project!r} does not exist")
        fresh = new_credential(settings.random_bytes)
        row = key_queries.add_key(
            session, name=body.name, access=body.access, sha256=fresh.sha256, prefix=fresh.prefix,
            project=project, cluster=body.cluster, actor=caller.actor,
            expires_at=settings.clock() + lifetime if lifetime else None, **limits,
        )  # fmt: skip
        session.refresh(row)
        return r.NewKey(**key_view(row).model_dump(), key=fresh.text)

    return once(state, caller, creation, r.NewKey, work)


@router.delete("/keys/{id}", status_code=204, response_class=Response, responses=_READ)
def revoke_key(id: Identity, state: State, caller: Admin) -> None:
    """End a key at once. Repeating changes nothing."""
    with state.database.write() as session:
        row = key_queries.get_key(session, id)
        if caller.project is not None and row.project != caller.project:
            raise ProblemError(
                "access_denied", f"key {id} is not of project {caller.project}: use another key"
            )
        key_queries.revoke_key(session, row, actor=caller.actor)


@router.get("/secrets", response_model=r.Page[r.SecretInfo], responses=_LIST)
def list_secrets(
    state: State,
    caller: Viewer,
    project: ProjectQuery = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Any:
    """Names and versions of secrets, never values."""
    with state.database.read() as session:
        rows, following = access_queries.list_secrets(
            session, caller.listed(project), cursor=cursor, limit=limit
        )
    return r.Page(items=[secret_view(row) for row in rows], next_cursor=following)


@router.put("/secrets/{name}", response_model=r.SecretInfo, responses=_READ)
def put_secret(
    name: SecretName,
    body: SecretValue,
    state: State,
    caller: Operator,
    project: ProjectQuery = None,
) -> Any:
    """Create or replace a value; it is encrypted at once and never shown again."""
    home = caller.named_in(project)
    sealed = state.vault.seal(body.value)
    with state.database.write() as session:
        if not access_queries.project_exists(session, home):
            raise ProblemError("not_found", f"project {home!r} does not exist")
        row = access_queries.put_secret(session, home, name, sealed, actor=caller.actor)
        return secret_view(row)


@router.delete("/secrets/{name}", status_code=204, response_class=Response, responses=_READ)
def delete_secret(
    name: SecretName, state: State, caller: Operator, project: ProjectQuery = None
) -> None:
    """Forget a value; jobs that name it are refused from now on."""
    home = caller.named_in(project)
    with state.database.write() as session:
        access_queries.delete_secret(session, home, name, actor=caller.actor)


@router.get("/projects", response_model=r.Page[r.Project], responses=_LIST)
def list_projects(state: State, caller: Viewer, limit: Limit = 100, cursor: Cursor = None) -> Any:
    """Projects that the key reaches, by name."""
    with state.database.read() as session:
        rows, following = access_queries.list_projects(
            session, caller.project, cursor=cursor, limit=limit
        )
        tenancy = read_tenancy(session)
    items = [project_view(row, tenancy) for row in rows]
    return r.Page(items=items, next_cursor=following)


@router.post(
    "/projects",
    response_model=r.Project,
    status_code=201,
    responses=documented(*_CREATE, "name_taken"),
)
def create_project(body: ProjectRequest, state: State, caller: Admin, creation: Creating) -> Any:
    """Make a project. Needs a key of the whole installation."""
    caller.check_everywhere()

    def work(session: Session) -> r.Project:
        if access_queries.project_exists(session, body.name):
            raise ProblemError("name_taken", f"project {body.name!r} exists: choose another name")
        row = access_queries.add_project(
            session, body.name, actor=caller.actor, isolation=body.isolation
        )
        session.refresh(row)
        return project_view(row, read_tenancy(session))

    try:
        return once(state, caller, creation, r.Project, work)
    except Duplicate as error:
        raise ProblemError("name_taken", f"project {body.name!r} was just made") from error


@router.put("/projects/{name}", response_model=r.Project, responses=_READ)
def change_project(name: NamePath, body: ProjectChange, state: State, caller: Admin) -> Any:
    """Isolate a project, or let it share clusters again: of what starts from now on. Needs a key
    of the whole installation."""
    caller.check_everywhere()
    with state.database.write() as session:
        row = access_queries.isolate_project(session, name, body.isolation, actor=caller.actor)
        return project_view(row, read_tenancy(session))
