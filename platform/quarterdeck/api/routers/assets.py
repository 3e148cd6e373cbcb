"""Models, datasets and tokenizers: three lists of versions with the same operations."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from quarterdeck.api.auth import Operator, ProjectQuery, Viewer
from quarterdeck.api.parameters import LARGEST_INT, Cursor, Limit, NamePath
from quarterdeck.api.problems import documented
from quarterdeck.api.state import State
from quarterdeck.api.strict_json import StrictRoute
from quarterdeck.api.views import asset_view
from quarterdeck.specs import resources as r
from quarterdeck.specs.base import NAME_PATTERN
from quarterdeck.store import asset_queries
from quarterdeck.store.errors import NotFound
from quarterdeck.store.sessions import Session
from quarterdeck.store.tables import AssetVersionRow

_READ = documented("key_unknown", "access_denied", "not_found")
VersionPath = Annotated[
    str, Path(pattern=r"^[A-Za-z0-9._-]{1,64}$", description="A number or an alias.")
]
AliasPath = Annotated[
    str,
    Path(pattern=r"^[a-z][a-z0-9_-]{0,62}$", description="E.g. `prod`; a number is no alias."),
]


class AliasTarget(BaseModel):
    """The version that an alias is to mean."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"version": 1}]})

    version: int = Field(ge=1, le=LARGEST_INT)


def show(session: Session, rows: list[AssetVersionRow]) -> list[r.AssetVersion]:
    """Versions with aliases and lineage."""
    lineage = asset_queries.lineage_of(session, rows)
    return [asset_view(row, lineage[row.id]) for row in rows]


def asset_router(kind: Literal["model", "dataset", "tokenizer"]) -> APIRouter:
    """The operations on one kind of asset."""
    router = APIRouter(prefix=f"/{kind}s", route_class=StrictRoute, tags=[f"{kind}s"])

    @router.get(
        "",
        response_model=r.Page[r.AssetVersion],
        responses=documented("key_unknown", "access_denied"),
        operation_id=f"list_{kind}s",
        summary=f"List {kind} versions",
    )
    def list_all(
        state: State,
        caller: Viewer,
        project: ProjectQuery = None,
        name: Annotated[str | None, Query(pattern=NAME_PATTERN)] = None,
        limit: Limit = 100,
        cursor: Cursor = None,
    ) -> Any:
        """All versions, newest first."""
        with state.database.read() as session:
            rows, following = asset_queries.list_versions(
                session, kind, project=caller.listed(project), name=name, cursor=cursor,
                limit=limit,
            )  # fmt: skip
            return r.Page(items=show(session, rows), next_cursor=following)

    @router.get(
        "/{name}",
        response_model=r.Page[r.AssetVersion],
        responses=_READ,
        operation_id=f"list_{kind}_versions",
        summary=f"List the versions of one {kind}",
    )
    def list_versions(
        name: NamePath,
        state: State,
        caller: Viewer,
        project: ProjectQuery = None,
        limit: Limit = 100,
        cursor: Cursor = None,
    ) -> Any:
        """The versions of one name, newest first."""
        home = caller.named_in(project)
        with state.database.read() as session:
            rows, following = asset_queries.list_versions(
                session, kind, project=home, name=name, cursor=cursor, limit=limit
            )
            if not rows and cursor is None:
                raise NotFound(kind, name)
            return r.Page(items=show(session, rows), next_cursor=following)

    @router.get(
        "/{name}/versions/{version}",
        response_model=r.AssetVersion,
        responses=_READ,
        operation_id=f"get_{kind}_version",
        summary=f"Get one {kind} version",
    )
    def get_version(
        name: NamePath,
        version: VersionPath,
        state: State,
        caller: Viewer,
        project: ProjectQuery = None,
    ) -> Any:
        """One version by number or alias, with its lineage."""
        home = caller.named_in(project)
        with state.database.read() as session:
            return show(session, [asset_queries.get_version(session, kind, name, home, version)])[0]

    @router.put(
        "/{name}/aliases/{alias}",
        response_model=r.AssetVersion,
        responses=_READ,
        operation_id=f"set_{kind}_alias",
        summary=f"Let an alias mean one {kind} version",
    )
    def set_alias(
        name: NamePath,
        alias: AliasPath,
        body: AliasTarget,
        state: State,
        caller: Operator,
        project: ProjectQuery = None,
    ) -> Any:
        """Move an alias; services that follow it roll to the version."""
        home = caller.named_in(project)
        with state.database.write() as session:
            row = asset_queries.get_version(session, kind, name, home, str(body.version))
            asset_queries.set_alias(session, row, alias, actor=caller.actor)
            return show(session, [row])[0]

    return router


routers = tuple(asset_router(kind) for kind in ("model", "dataset", "tokenizer"))
