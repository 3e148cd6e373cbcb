"""Clusters and nodes: where runs go."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from quarterdeck.api.auth import Admin, Agent, Caller, Operator, Viewer
from quarterdeck.api.parameters import Cursor, Identity, Limit, NamePath
from quarterdeck.api.problems import ProblemError, documented
from quarterdeck.api.state import ApiState, State
from quarterdeck.api.strict_json import StrictRoute
from quarterdeck.api.views import cluster_view, node_view
from quarterdeck.specs import resources as r
from quarterdeck.specs.protocol import JoinRequest, JoinTicket
from quarterdeck.store import dead_nodes, fleet_queries
from quarterdeck.store.dead_nodes import held_by_node
from quarterdeck.store.fleet_queries import Capacity
from quarterdeck.store.joins import is_news, record_join
from quarterdeck.store.node_faults import Machine, newest_faults
from quarterdeck.store.pools import all_pools, pool_of
from quarterdeck.store.sessions import Session
from quarterdeck.store.tables import NodeRow

router = APIRouter(route_class=StrictRoute, tags=["fleet"])
_READ = documented("key_unknown", "access_denied", "not_found")
_LIST = documented("key_unknown", "access_denied")


class DeathNotice(BaseModel):
    """Why somebody is sure; `force` for a machine that still beats."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"reason": "power supply burnt"}]}
    )

    reason: Annotated[str, Field(min_length=1, max_length=500)]
    force: bool = False


@router.get("/clusters", response_model=r.Page[r.Cluster], responses=_LIST)
def list_clusters(state: State, caller: Viewer, limit: Limit = 100, cursor: Cursor = None) -> Any:
    """Clusters by name."""
    with state.database.read() as session:
        rows, following = fleet_queries.list_clusters(session, cursor=cursor, limit=limit)
        capacity = fleet_queries.capacity_by_cluster(session)
        pools = {pool.name: pool for pool in all_pools(session)}
    items = [
        cluster_view(row, capacity.get(row.name, Capacity()), pools.get(row.name)) for row in rows
    ]
    return r.Page(items=items, next_cursor=following)


@router.get("/clusters/{id}", response_model=r.Cluster, responses=_READ)
def get_cluster(id: Identity, state: State, caller: Viewer) -> Any:
    """One cluster by its id or name."""
    with state.database.read() as session:
        row = fleet_queries.get_cluster(session, id)
        capacity = fleet_queries.capacity_by_cluster(session)
        pool = pool_of(session, row.name)
    return cluster_view(row, capacity.get(row.name, Capacity()), pool)


@router.post("/clusters/{name}/join", response_model=JoinTicket, responses=_READ)
def join_cluster(
    name: NamePath, state: State, caller: Agent, said: JoinRequest | None = None
) -> Any:
    """Address and token of a cluster's Ray head, for a machine that joins it. Whom its versions
    keep out is remembered for `doctor`."""
    caller.check_cluster(name)
    with state.database.read() as session:
        row = fleet_queries.get_cluster(session, name)
        news = said is not None and is_news(session, row, said)
    if said is not None and news:
        with state.database.write() as session:
            record_join(session, row.name, said)
    if not row.address or row.ray_token is None:
        raise ProblemError(
            "not_found",
            f"cluster {name!r} takes no machines: its agent gave no address to join at",
        )
    return JoinTicket(
        cluster=row.name, address=row.address, ray_token=state.vault.open(row.ray_token),
        silent=row.phase == "silent", versions=row.versions,
    )  # fmt: skip


@router.get("/nodes", response_model=r.Page[r.Node], responses=_LIST)
def list_nodes(
    state: State,
    caller: Viewer,
    cluster: Annotated[str | None, Query(max_length=128)] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Any:
    """Nodes that are not dead or that given-up runs still hold, by cluster and host."""
    with state.database.read() as session:
        held = held_by_node(session)
        also = [node for node, one in held.items() if one.quarantined]
        rows, following = fleet_queries.list_nodes(
            session, cluster, also=also, cursor=cursor, limit=limit
        )
        faults = newest_faults(session)
    items = [node_view(row, held.get(row.id), faults.get(_machine(row), ())) for row in rows]
    return r.Page(items=items, next_cursor=following)


@router.get("/nodes/{id}", response_model=r.Node, responses=_READ)
def get_node(id: Identity, state: State, caller: Viewer) -> Any:
    """One node by its id, or the newest on that host."""
    with state.database.read() as session:
        row = fleet_queries.get_node(session, id)
        return _shown(session, row)


@router.post("/nodes/{id}/cordon", response_model=r.Node, responses=_READ)
def cordon_node(id: Identity, state: State, caller: Admin) -> Any:
    """Keep new runs off a node; running ones go on."""
    return _cordon(state, caller, id, True)


@router.post("/nodes/{id}/uncordon", response_model=r.Node, responses=_READ)
def uncordon_node(id: Identity, state: State, caller: Admin) -> Any:
    """Let new runs on a node again, those of jobs that it failed too."""
    return _cordon(state, caller, id, False)


@router.post(
    "/nodes/{id}/confirm-dead",
    response_model=r.Node,
    responses=documented(
        "key_unknown", "access_denied", "not_found", "node_alive", "invalid_document"
    ),
)
def confirm_dead(id: Identity, body: DeathNotice, state: State, caller: Operator) -> Any:
    """Vouch that a machine is gone for good, so that its runs count as proven dead: slots of
    given-up ones are free again, and jobs that wait for news of theirs start anew."""
    caller.check_everywhere()
    with state.database.write() as session:
        row = fleet_queries.get_node(session, id)
        dead_nodes.confirm_dead(
            session, row, actor=caller.actor, reason=body.reason, force=body.force
        )
        return _shown(session, row)


def _machine(row: NodeRow) -> Machine:
    return (row.cluster, row.host, row.address)


def _shown(session: Session, row: NodeRow) -> r.Node:
    faults = newest_faults(session).get(_machine(row), ())
    return node_view(row, held_by_node(session).get(row.id), faults)


def _cordon(state: ApiState, caller: Caller, node: str, cordoned: bool) -> r.Node:
    caller.check_everywhere()
    with state.database.write() as session:
        row = fleet_queries.get_node(session, node)
        fleet_queries.cordon_node(session, row, cordoned, actor=caller.actor)
        return _shown(session, row)
