"""Clusters and nodes, with the slots that runs leave free on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from quarterdeck.lifecycle.run import ENDED
from quarterdeck.store.errors import NotFound
from quarterdeck.store.outbox import append_event
from quarterdeck.store.paging import fetch_page
from quarterdeck.store.tables import ClusterRow, NodeRow, RunRow


@dataclass(frozen=True)
class Capacity:
    """Slots of what is alive."""

    nodes: int = 0
    slots: int = 0
    free: int = 0


def list_clusters(
    session: Session, *, cursor: str | None, limit: int
) -> tuple[list[ClusterRow], str | None]:
    """Clusters by name."""
    keys = (ClusterRow.name,)
    query = select(ClusterRow)
    return fetch_page(session, query, keys, descending=False, cursor=cursor, limit=limit)


def get_cluster(session: Session, identity: str) -> ClusterRow:
    """The cluster with this id or name. Raises NotFound."""
    query = select(ClusterRow).where(or_(ClusterRow.id == identity, ClusterRow.name == identity))
    found = session.scalars(query.limit(1)).one_or_none()
    if found is None:
        raise NotFound("cluster", identity)
    return found


def list_nodes(
    session: Session, cluster: str | None, *, cursor: str | None, limit: int
) -> tuple[list[NodeRow], str | None]:
    """Nodes that are not dead, by cluster and host."""
    query = select(NodeRow).where(NodeRow.phase != "dead")
    if cluster is not None:
        query = query.where(NodeRow.cluster == cluster)
    keys = (NodeRow.cluster, NodeRow.host, NodeRow.id)
    return fetch_page(session, query, keys, descending=False, cursor=cursor, limit=limit)


def get_node(session: Session, identity: str) -> NodeRow:
    """The node with this id, else the living one on this host. Raises NotFound."""
    found = session.get(NodeRow, identity)
    if found is None:
        query = (
            select(NodeRow)
            .where(NodeRow.host == identity, NodeRow.phase != "dead")
            .order_by(NodeRow.created_at.desc())
        )
        found = session.scalars(query.limit(1)).one_or_none()
    if found is None:
        raise NotFound("node", identity)
    return found


def held_slots(session: Session) -> Mapping[str, int]:
    """Slots by node that runs hold: those that live, and those given up but not proven dead."""
    held: dict[str, int] = {}
    query = select(RunRow.placements).where(
        or_(RunRow.phase.not_in(sorted(ENDED)), RunRow.quarantined.is_(True))
    )
    for placements in session.scalars(query):
        for placement in placements:
            node = placement["node_id"]
            held[node] = held.get(node, 0) + int(placement.get("slots", 1))
    return held


def capacity_by_cluster(session: Session) -> Mapping[str, Capacity]:
    """Living nodes and their slots; cordoned and quarantined ones offer no free slots."""
    held = held_slots(session)
    found: dict[str, Capacity] = {}
    for node in session.scalars(select(NodeRow).where(NodeRow.phase == "alive")):
        known = found.get(node.cluster, Capacity())
        open_ = not (node.cordoned or node.quarantined)
        free = max(0, node.slots - held.get(node.id, 0)) if open_ else 0
        found[node.cluster] = Capacity(known.nodes + 1, known.slots + node.slots, known.free + free)
    return found


def living_nodes(session: Session) -> list[NodeRow]:
    """Every node that is alive, by cluster."""
    query = select(NodeRow).where(NodeRow.phase == "alive").order_by(NodeRow.cluster, NodeRow.id)
    return list(session.scalars(query))


def cordon_node(session: Session, row: NodeRow, cordoned: bool, *, actor: str) -> None:
    """Keep new runs off a node, or let them on again; running ones go on."""
    if row.cordoned == cordoned:
        return
    session.execute(update(NodeRow).where(NodeRow.id == row.id).values(cordoned=cordoned))
    session.refresh(row)
    append_event(
        session,
        type="node.cordoned" if cordoned else "node.uncordoned",
        subject=f"node/{row.host}",
        subject_id=row.id,
        project="default",
        message=f"node {row.host} of {row.cluster} is "
        + ("closed to new runs" if cordoned else "open to runs again"),
        actor=actor,
        data={"cluster": row.cluster},
    )
