"""Clusters and nodes, with the slots that runs leave free on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from quarterdeck.store.dead_nodes import Held, held_by_node
from quarterdeck.store.errors import NotFound
from quarterdeck.store.node_faults import clear_faults
from quarterdeck.store.outbox import append_event
from quarterdeck.store.own_clusters import GONE
from quarterdeck.store.paging import fetch_page
from quarterdeck.store.tables import ClusterRow, NodeRow


@dataclass(frozen=True)
class Capacity:
    """Slots of what is alive."""

    nodes: int = 0
    slots: int = 0
    free: int = 0
    shared: int = 0
    """Slots of which replicas hold parts."""
    parts_free: int = 0
    """Thousandths of slots that are left of those."""


def list_clusters(
    session: Session, *, cursor: str | None, limit: int
) -> tuple[list[ClusterRow], str | None]:
    """Clusters by name."""
    keys = (ClusterRow.name,)
    query = select(ClusterRow).where(ClusterRow.phase != GONE)
    return fetch_page(session, query, keys, descending=False, cursor=cursor, limit=limit)


def get_cluster(session: Session, identity: str) -> ClusterRow:
    """The cluster with this id or name. Raises NotFound."""
    query = select(ClusterRow).where(or_(ClusterRow.id == identity, ClusterRow.name == identity))
    found = session.scalars(query.limit(1)).one_or_none()
    if found is None:
        raise NotFound("cluster", identity)
    return found


def list_nodes(
    session: Session,
    cluster: str | None,
    *,
    also: Iterable[str] = (),
    cursor: str | None,
    limit: int,
) -> tuple[list[NodeRow], str | None]:
    """Nodes that are not dead, and `also` these, by cluster and host."""
    query = select(NodeRow).where(or_(NodeRow.phase != "dead", NodeRow.id.in_(list(also))))
    if cluster is not None:
        query = query.where(NodeRow.cluster == cluster)
    keys = (NodeRow.cluster, NodeRow.host, NodeRow.id)
    return fetch_page(session, query, keys, descending=False, cursor=cursor, limit=limit)


def get_node(session: Session, identity: str) -> NodeRow:
    """The node with this id, else the newest on this host, a living one first. Raises
    NotFound."""
    found = session.get(NodeRow, identity)
    if found is None:
        query = (
            select(NodeRow)
            .where(NodeRow.host == identity)
            .order_by(NodeRow.phase == "dead", NodeRow.created_at.desc())
        )
        found = session.scalars(query.limit(1)).one_or_none()
    if found is None:
        raise NotFound("node", identity)
    return found


def capacity_by_cluster(session: Session) -> Mapping[str, Capacity]:
    """Living nodes and their slots; cordoned and quarantined ones offer no free slots."""
    held = held_by_node(session)
    found: dict[str, Capacity] = {}
    for node in session.scalars(select(NodeRow).where(NodeRow.phase == "alive")):
        known = found.get(node.cluster, Capacity())
        open_ = not (node.cordoned or node.quarantined)
        used = held.get(node.id, Held())
        found[node.cluster] = Capacity(
            nodes=known.nodes + 1,
            slots=known.slots + node.slots,
            free=known.free + (max(0, node.slots - used.slots) if open_ else 0),
            shared=known.shared + len(used.shared),
            parts_free=known.parts_free + (used.parts_free if open_ else 0),
        )
    return found


def machines(session: Session, cluster: str | None, limit: int) -> list[NodeRow]:
    """Nodes with slots that are not dead, by cluster and host, at most `limit`."""
    query = select(NodeRow).where(NodeRow.phase != "dead", NodeRow.slots > 0)
    if cluster is not None:
        query = query.where(NodeRow.cluster == cluster)
    order = (NodeRow.cluster, NodeRow.host, NodeRow.id)
    return list(session.scalars(query.order_by(*order).limit(limit)))


def silent_clusters(session: Session, names: Iterable[str]) -> set[str]:
    """Those of the clusters whose agents do not beat."""
    query = select(ClusterRow.name).where(
        ClusterRow.name.in_(list(names)), ClusterRow.phase == "silent"
    )
    return set(session.scalars(query))


@dataclass(frozen=True)
class Machines:
    """Living nodes of one cluster that are alike. `memory` is in bytes a node."""

    cluster: str
    accelerator: str
    slots: int
    cpus: float
    memory: int
    count: int


def living_machines(session: Session) -> list[Machines]:
    """The nodes that are alive, those that are alike counted, by cluster."""
    alike = (NodeRow.cluster, NodeRow.accelerator, NodeRow.slots, NodeRow.cpus, NodeRow.memory)
    found = session.execute(
        select(*alike, func.count())
        .where(NodeRow.phase == "alive")
        .group_by(*alike)
        .order_by(NodeRow.cluster, func.min(NodeRow.id))
    )
    return [Machines(*row) for row in found]


def cordon_node(session: Session, row: NodeRow, cordoned: bool, *, actor: str) -> None:
    """Keep new runs off a machine, or let them on again; running ones go on.

    All its rows take it, so that it holds whichever of them the next start of a raylet follows.
    """
    if not cordoned:
        clear_faults(session, row)
    if row.cordoned == cordoned:
        return
    session.execute(
        update(NodeRow)
        .where(
            NodeRow.cluster == row.cluster,
            NodeRow.host == row.host,
            NodeRow.address == row.address,
        )
        .values(cordoned=cordoned, cordon_reason="")
        .execution_options(synchronize_session=False)
    )
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
