"""Weights on nodes ahead: what people ask for, and what agents need to bring them there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from quarterdeck.api.auth import Agent, Operator, ProjectQuery, Viewer
from quarterdeck.api.parameters import IDENTITY, Identity, NamePath
from quarterdeck.api.problems import ProblemError, documented
from quarterdeck.api.routers.assets import VersionPath
from quarterdeck.api.state import State
from quarterdeck.api.strict_json import StrictRoute
from quarterdeck.specs.base import NAME_PATTERN
from quarterdeck.specs.beats import FileEntry
from quarterdeck.specs.protocol import ResolvedAsset, WeightsOrder
from quarterdeck.specs.resources import FieldProblem
from quarterdeck.specs.tenancy import Tenancy
from quarterdeck.specs.warming import (
    WEIGHTS,
    ModelWarmth,
    NodeWarmth,
    can_be_cached,
    has_weights,
)
from quarterdeck.store import asset_queries, fleet_queries, warming
from quarterdeck.store.sessions import Session
from quarterdeck.store.tables import AssetVersionRow, NodeRow, WarmingRow
from quarterdeck.store.tenants import read_tenancy

models = APIRouter(prefix="/models", route_class=StrictRoute, tags=["models"])
agents = APIRouter(prefix="/agents", route_class=StrictRoute, tags=["machines"])
MOST_NODES = 500
_READ = documented("key_unknown", "access_denied", "not_found")


class WarmRequest(BaseModel):
    """Where the weights are wanted: on these nodes, on those of a cluster, else on all."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"cluster": "local"}]}
    )

    nodes: list[Annotated[str, Field(pattern=IDENTITY)]] = Field(
        default=[], max_length=MOST_NODES, description="Ids or hosts."
    )
    cluster: Annotated[str, Field(pattern=NAME_PATTERN)] | None = None


@models.post(
    "/{name}/versions/{version}/warm",
    response_model=ModelWarmth,
    responses=documented(
        "key_unknown", "access_denied", "not_found", "node_gone", "no_weights", "warmings_full",
        "invalid_document",
    ),
)  # fmt: skip
def warm_model(
    name: NamePath,
    version: VersionPath,
    body: WarmRequest,
    state: State,
    caller: Operator,
    project: ProjectQuery = None,
) -> Any:
    """Bring a version's weights to nodes before a service starts there. Repeating changes nothing
    where they are being fetched; elsewhere the node looks again whether it has them."""
    home = caller.named_in(project)
    if body.nodes and body.cluster:
        raise ProblemError(
            "invalid_document",
            "nodes, cluster: give one of them",
            errors=[FieldProblem(path="cluster", message="give `nodes` or `cluster`, not both")],
        )
    with state.database.write() as session:
        asset = asset_queries.get_version(session, "model", name, home, version)
        _check_weights(asset)
        nodes = _nodes(session, body, home)
        return _view(session, asset, warming.ask_for(session, asset, nodes, actor=caller.actor))


@models.get("/{name}/versions/{version}/warm", response_model=ModelWarmth, responses=_READ)
def model_warmth(
    name: NamePath,
    version: VersionPath,
    state: State,
    caller: Viewer,
    project: ProjectQuery = None,
) -> Any:
    """How far the weights are on the nodes that they were asked for on."""
    home = caller.named_in(project)
    with state.database.read() as session:
        asset = asset_queries.get_version(session, "model", name, home, version)
        return _view(session, asset, warming.warmings_of(session, asset.id))


@agents.get("/{cluster}/weights/{asset_id}", response_model=WeightsOrder, responses=_READ)
def weights_order(cluster: NamePath, asset_id: Identity, state: State, caller: Agent) -> Any:
    """All that nodes need to fetch a version that is wanted there. The answer may hold
    credentials."""
    caller.check_cluster(cluster)
    with state.database.read() as session:
        asset = warming.wanted_version(session, cluster, asset_id)
    return WeightsOrder(
        model=ResolvedAsset(
            kind="model", name=asset.name, version=asset.version, digest=asset.digest, uri=asset.uri
        ),
        files=[FileEntry.model_validate(file) for file in asset.files],
        artifacts_options=dict(state.settings.artifacts_options),
    )


def _check_weights(asset: AssetVersionRow) -> None:
    what = f"model/{asset.name}@{asset.version}"
    if not has_weights(file["path"] for file in asset.files):
        raise ProblemError(
            "no_weights",
            f"{what} lists no file with weights (*{', *'.join(WEIGHTS)}): nothing can be "
            "brought ahead; publish it with its files",
        )
    if not can_be_cached(asset.digest):
        raise ProblemError(
            "no_weights",
            f"{what} has the digest {asset.digest!r}, under which nodes keep no copy: publish it "
            "with the digest of its files",
        )


def _nodes(session: Session, body: WarmRequest, project: str) -> Sequence[NodeRow]:
    tenancy = read_tenancy(session)
    if body.nodes:
        found = {
            row.id: row for row in (fleet_queries.get_node(session, one) for one in body.nodes)
        }
        for row in found.values():
            if row.phase == "dead":
                raise ProblemError("node_gone", f"node {row.host} ({row.id}) is dead")
            _check_open(tenancy, row.cluster, project)
        return list(found.values())
    where = f"cluster {body.cluster!r}" if body.cluster else "the installation"
    if body.cluster:
        fleet_queries.get_cluster(session, body.cluster)
        _check_open(tenancy, body.cluster, project)
    rows = fleet_queries.machines(session, body.cluster, MOST_NODES + 1)
    if not rows:
        raise ProblemError("node_gone", f"{where} has no living node")
    if len(rows) > MOST_NODES:
        raise ProblemError(
            "warmings_full", f"{where} has more than {MOST_NODES} nodes: name some of them"
        )
    return [row for row in rows if not tenancy.why_closed(row.cluster, project)]


def _check_open(tenancy: Tenancy, cluster: str, project: str) -> None:
    """Weights of a project lie where its runs may: raises ProblemError."""
    if why := tenancy.why_closed(cluster, project):
        message = f"cluster {cluster} {why}, and takes no weights of project {project}"
        raise ProblemError("invalid_document", message)


def _view(session: Session, asset: AssetVersionRow, rows: Sequence[WarmingRow]) -> ModelWarmth:
    silent = fleet_queries.silent_clusters(session, {row.cluster for row in rows})
    return ModelWarmth(
        name=asset.name,
        version=asset.version,
        digest=asset.digest,
        bytes=sum(int(file["size"]) for file in asset.files),
        nodes=[_node(row, row.cluster in silent) for row in rows],
    )


def _node(row: WarmingRow, silent: bool) -> NodeWarmth:
    message = row.message
    if row.ended_at is None and silent:
        message = f"the agent of cluster {row.cluster} is silent: it goes on when it is back"
    elif row.state == "waiting":
        message = f"the agent of cluster {row.cluster} has not come to it yet"
    return NodeWarmth.model_validate(
        {**{name: getattr(row, name) for name in NodeWarmth.model_fields}, "message": message}
    )
