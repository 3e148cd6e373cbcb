"""Clusters and nodes: where runs go."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from quarterdeck.api.auth import Admin, Agent, Caller, Viewer
from quarterdeck.api.parameters import Cursor, Identity, Limit, NamePath
from quarterdeck.api.problems import ProblemError, documented
from quarterdeck.api.state import ApiState, State
from quarterdeck.api.strict_json import StrictRoute
from quarterdeck.api.views import cluster_view, node_view
from quarterdeck.specs import resources as r
from quarterdeck.store import fleet_queries
from quarterdeck.store.fleet_queries import Capacity

router = APIRouter(route_class=StrictRoute, tags=["fleet"])
_READ = documented("key_unknown", "access_denied", "not_found")
_LIST = documented("key_unknown", "access_denied")


@router.get("/clusters", response_model=r.Page[r.Cluster], responses=_LIST)
def list_clusters(state: State, caller: Viewer, limit: Limit = 100, cursor: Cursor = None) -> Any:
    """Clusters by name."""
    with state.database.read() as session:
        rows, following = fleet_queries.list_clusters(session, cursor=cursor, limit=limit)
        capacity = fleet_queries.capacity_by_cluster(session)
    items = [cluster_view(row, capacity.get(row.name, Capacity())) for row in rows]
    return r.Page(items=items, next_cursor=following)


@router.get("/clusters/{id}", response_model=r.Cluster, responses=_READ)
def get_cluster(id: Identity, state: State, caller: Viewer) -> Any:
    """One cluster by its id or name."""
    with state.database.read() as session:
        row = fleet_queries.get_cluster(session, id)
        capacity = fleet_queries.capacity_by_cluster(session)
    return cluster_view(row, capacity.get(row.name, Capacity()))


@router.post("/clusters/{name}/join", response_model=r.JoinTicket, responses=_READ)
def join_cluster(name: NamePath, state: State, caller: Agent) -> Any:
    """Address and token of a cluster's Ray head, for a machine that joins it."""
    with state.database.read() as session:
        row = fleet_queries.get_cluster(session, name)
    if not row.address or row.ray_token is None:
        raise ProblemError(
            "not_found",
            f"cluster {name!r} takes no machines: its agent gave no address to join at",
        )
    return r.JoinTicket(
        cluster=row.name, address=row.address, ray_token=state.vault.open(row.ray_token)
    )


@router.get("/nodes", response_model=r.Page[r.Node], responses=_LIST)
def list_nodes(
    state: State,
    caller: Viewer,
    cluster: Annotated[str | None, Query(max_length=128)] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Any:
    """Nodes that are not dead, by cluster and host."""
    with state.database.read() as session:
        rows, following = fleet_queries.list_nodes(session, cluster, cursor=cursor, limit=limit)
        held = fleet_queries.held_slots(session)
    items = [node_view(row, held.get(row.id, 0)) for row in rows]
    return r.Page(items=items, next_cursor=following)


@router.get("/nodes/{id}", response_model=r.Node, responses=_READ)
def get_node(id: Identity, state: State, caller: Viewer) -> Any:
    """One node by its id, or the living one on that host."""
    with state.database.read() as session:
        row = fleet_queries.get_node(session, id)
        return node_view(row, fleet_queries.held_slots(session).get(row.id, 0))


@router.post("/nodes/{id}/cordon", response_model=r.Node, responses=_READ)
def cordon_node(id: Identity, state: State, caller: Admin) -> Any:
    """Keep new runs off a node; running ones go on."""
    return _cordon(state, caller, id, True)


@router.post("/nodes/{id}/uncordon", response_model=r.Node, responses=_READ)
def uncordon_node(id: Identity, state: State, caller: Admin) -> Any:
    """Let new runs on a node again."""
    return _cordon(state, caller, id, False)


def _cordon(state: ApiState, caller: Caller, node: str, cordoned: bool) -> r.Node:
    caller.check_everywhere()
    with state.database.write() as session:
        row = fleet_queries.get_node(session, node)
        fleet_queries.cordon_node(session, row, cordoned, actor=caller.actor)
        return node_view(row, fleet_queries.held_slots(session).get(row.id, 0))
