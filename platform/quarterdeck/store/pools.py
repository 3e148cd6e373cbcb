"""Pools: who sizes which, what was decided, and what Kubernetes tells of their machines."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import CursorResult, delete, func, or_, select, update
from sqlalchemy.orm import Session

from quarterdeck.store.columns import database_now
from quarterdeck.store.dead_nodes import confirm_dead, held_by_node
from quarterdeck.store.errors import StaleRow
from quarterdeck.store.inserts import insert_ignoring
from quarterdeck.store.outbox import append_event
from quarterdeck.store.tables import ClusterRow, NodeRow, PoolRow
from quarterdeck.store.text import clean
from quarterdeck.store.transitions import ACTOR

LEASE_S = 60.0
"""Longer than all calls of one look take at their limits of time."""
FRESH_S = 300.0
"""A pool that nobody looked at for longer brings no machines."""
LEAVING = "LeavingPool"
OF_KUBERNETES = "KubernetesNode"
"""What the `cordon_reason` of nodes begins with that pools closed; others they leave alone."""
POD_LABEL = "pod"
"""Of a node: the pod that its agent runs in."""


@dataclass(frozen=True)
class Declared:
    """A pool as the file has it; `groups` are specs.pools.WorkerGroup as JSON."""

    name: str
    namespace: str
    object: str
    groups: Sequence[Mapping[str, Any]]
    project: str | None = None


@dataclass(frozen=True)
class Decision:
    """What one look at a pool decided. `resized` are the groups whose size it changes."""

    sizes: Mapping[str, Any]
    idle_since: Mapping[str, datetime]
    resized: Sequence[str] = ()
    close: Mapping[str, str] = field(default_factory=dict)
    """Nodes that take nothing new, and why, by id."""
    open: Sequence[str] = ()
    """Nodes that take work again."""
    dead: Mapping[str, str] = field(default_factory=dict)
    """Nodes that Kubernetes knows to be dead, and how, by id."""
    joined: Mapping[str, str] = field(default_factory=dict)
    """Nodes whose group was not known before, by id."""
    places: Mapping[str, str] = field(default_factory=dict)
    """Where nodes are that were thought to be elsewhere, by id."""
    leaving: frozenset[str] = frozenset()
    """Pods that go now."""


def declare_pools(session: Session, pools: Sequence[Declared]) -> None:
    """Make the table list exactly these; what was decided of known ones stays. RayClusters of
    others are left alone."""
    names = [pool.name for pool in pools]
    source = func.coalesce(PoolRow.of_pool, PoolRow.name)
    session.execute(delete(PoolRow).where(source.not_in(names)))
    for pool in pools:
        values = {
            "namespace": pool.namespace, "object": pool.object, "project": pool.project,
            "groups": [dict(group) for group in pool.groups],
        }  # fmt: skip
        new: dict[str, Any] = {
            "name": pool.name, **values, "sizes": {}, "idle_since": {}, "reason": "", "message": "",
        }  # fmt: skip
        session.execute(insert_ignoring(session, PoolRow, ["name"]).values(new))
        session.execute(update(PoolRow).where(PoolRow.name == pool.name).values(values))


def claim_pool(session: Session, name: str, lease_id: str) -> bool:
    """Lease a pool; whether it is ours now."""
    free = or_(PoolRow.lease_until.is_(None), PoolRow.lease_until < database_now())
    result = session.execute(
        update(PoolRow)
        .where(PoolRow.name == name, free)
        .values(lease_id=lease_id, lease_until=database_now(LEASE_S))
        .execution_options(synchronize_session=False)
    )
    assert isinstance(result, CursorResult)
    return bool(result.rowcount == 1)


def renew_pool(session: Session, name: str, lease_id: str) -> bool:
    """Hold a lease for longer; whether it was still ours."""
    result = session.execute(
        update(PoolRow)
        .where(
            PoolRow.name == name,
            PoolRow.lease_id == lease_id,
            PoolRow.lease_until > database_now(),
        )
        .values(lease_until=database_now(LEASE_S))
        .execution_options(synchronize_session=False)
    )
    assert isinstance(result, CursorResult)
    return bool(result.rowcount == 1)


def release_pool(session: Session, name: str, lease_id: str, *, rest: float) -> None:
    """Give a lease back. Nobody takes it for `rest` seconds: several controllers look no more
    often than one."""
    session.execute(
        update(PoolRow)
        .where(PoolRow.name == name, PoolRow.lease_id == lease_id)
        .values(lease_id=None, lease_until=database_now(rest))
        .execution_options(synchronize_session=False)
    )


def note_trouble(session: Session, name: str, lease_id: str, reason: str, message: str) -> None:
    """Say why a pool cannot be sized now; empty: it is. A new reason is an event. Raises
    StaleRow."""
    row = _mine(session, name, lease_id)
    before = row.reason
    row.reason, row.message = reason, clean(message, 2000)
    row.looked_at = database_now()
    if reason and reason != before:
        _tell(session, name, "pool.trouble", f"{reason}: {message}", {"reason": reason})


def store_decision(session: Session, name: str, lease_id: str, made: Decision) -> list[str]:
    """Write a decision down before it is carried out, and close, open and bury the nodes that it
    names; what is to stay all the same, as something was placed there meanwhile: the ids of nodes,
    and the pods of those that had not joined when it was decided. Raises StaleRow where the pool
    is somebody else's now."""
    row = _mine(session, name, lease_id)
    busy = _close(session, name, made.close, made.leaving)
    for node in _nodes(session, made.open):
        if node.cordon_reason.startswith((LEAVING, OF_KUBERNETES)):
            node.cordoned, node.cordon_reason = False, ""
            _tell_of_node(session, node, "node.uncordoned", "open to runs again", {})
    for node in _nodes(session, made.dead):
        confirm_dead(session, node, actor="kubernetes", reason=made.dead[node.id], force=True)
    for node in _nodes(session, made.joined):
        node.pool_group = made.joined[node.id]
    for node in _nodes(session, made.places):
        node.topology = made.places[node.id]
    before = row.sizes
    row.sizes = dict(made.sizes)
    row.idle_since = {pod: since.isoformat() for pod, since in made.idle_since.items()}
    row.looked_at = database_now()
    for group in made.resized:
        size = made.sizes[group]
        last = before.get(group) or {}
        if (last.get("before"), last.get("wanted")) == (size["before"], size["wanted"]):
            continue  # told already: it was not carried out
        message = (
            f"pool {name}: {size['before']} → {size['wanted']} machines of group {group} "
            f"({size['constraint']}: {size['bound_by']})"
        )
        _tell(session, name, "pool.resized", message, {"group": group, **size})
    return busy


def _close(
    session: Session, cluster: str, nodes: Mapping[str, str], leaving: Collection[str]
) -> list[str]:
    """Close nodes; those that are to leave only if nothing holds them, which their cluster's lock
    keeps so: nothing is placed on a closed one. Those of leaving pods that joined since they were
    looked at are closed too; the lock keeps others from joining before the decision is written."""
    if not nodes and not leaving:
        return []
    session.execute(
        select(ClusterRow.name).where(ClusterRow.name == cluster).with_for_update()
    ).first()
    held = held_by_node(session)
    joined = _joined_to_leave(session, cluster, leaving, nodes)
    reasons = {**nodes, **{node.id: why_it_leaves(pod) for node, pod in joined.items()}}
    busy = [pod for node, pod in joined.items() if node.id in held]
    for node in _nodes(session, reasons):
        reason = reasons[node.id]
        if reason.startswith(LEAVING) and node.id in held:
            busy.append(node.id)
        elif not node.cordoned or (
            node.cordon_reason.startswith((LEAVING, OF_KUBERNETES)) and node.cordon_reason != reason
        ):
            before, node.cordoned, node.cordon_reason = node.cordoned, True, clean(reason, 500)
            if not before:
                words = f"closed to new runs: {reason}"
                kind = reason.partition(":")[0]
                _tell_of_node(session, node, "node.cordoned", words, {"reason": kind})
    return busy


def why_it_leaves(pod: str) -> str:
    """The `cordon_reason` of a node whose pod goes."""
    return f"{LEAVING}: nothing needs it, pod {pod} goes"


def _joined_to_leave(
    session: Session, cluster: str, leaving: Collection[str], known: Collection[str]
) -> dict[NodeRow, str]:
    """Nodes of leaving pods, but for those known, with their pods."""
    if not leaving:
        return {}
    nodes = session.scalars(
        select(NodeRow).where(NodeRow.cluster == cluster, NodeRow.phase != "dead")
    )
    found = {node: pod_of(node.labels, node.host) for node in nodes if node.id not in known}
    return {node: pod for node, pod in found.items() if pod in leaving and not node.cordoned}


def pod_of(labels: Mapping[str, str], host: str) -> str:
    """The pod that a node's agent says it is in; else, unless the pod has its machine's network,
    its host's name."""
    return labels.get(POD_LABEL) or host


def leaving_pods(session: Session, cluster: str) -> frozenset[str]:
    """Pods of a cluster's pool that were named to go and may still be there."""
    row = session.get(PoolRow, cluster)
    sizes = row.sizes.values() if row is not None else ()
    return frozenset(pod for size in sizes for pod in size.get("leaving") or ())


def pool_nodes(session: Session, cluster: str, hosts: Iterable[str]) -> Sequence[NodeRow]:
    """The cluster's nodes that are not dead, and dead ones on these hosts, the newest last."""
    there = or_(NodeRow.phase != "dead", NodeRow.host.in_(list(hosts)))
    return session.scalars(
        select(NodeRow)
        .where(NodeRow.cluster == cluster, there)
        .order_by(NodeRow.created_at, NodeRow.id)
    ).all()


def all_pools(session: Session) -> Sequence[PoolRow]:
    """Every pool, by name."""
    return session.scalars(select(PoolRow).order_by(PoolRow.name)).all()


def fresh_pools(session: Session) -> Sequence[PoolRow]:
    """The pools that somebody looked at lately: they may bring machines."""
    looked = PoolRow.looked_at > database_now(-FRESH_S)
    return session.scalars(select(PoolRow).where(looked).order_by(PoolRow.name)).all()


def pool_of(session: Session, cluster: str) -> PoolRow | None:
    """The pool that brings this cluster's machines."""
    return session.get(PoolRow, cluster)


def _mine(session: Session, name: str, lease_id: str) -> PoolRow:
    row = session.scalars(
        select(PoolRow)
        .where(
            PoolRow.name == name,
            PoolRow.lease_id == lease_id,
            PoolRow.lease_until > database_now(),
        )
        .with_for_update()
    ).one_or_none()
    if row is None:
        raise StaleRow(f"pool {name} is sized by another controller now")
    return row


def _nodes(session: Session, ids: Iterable[str]) -> Sequence[NodeRow]:
    return session.scalars(
        select(NodeRow).where(NodeRow.id.in_(list(ids))).order_by(NodeRow.id).with_for_update()
    ).all()


def _tell(session: Session, name: str, type: str, message: str, data: Mapping[str, Any]) -> None:
    append_event(
        session, type=type, subject=f"pool/{name}", subject_id=name, project="default",
        message=message, actor=ACTOR, data=dict(data),
    )  # fmt: skip


def _tell_of_node(
    session: Session, node: NodeRow, type: str, words: str, data: Mapping[str, Any]
) -> None:
    append_event(
        session, type=type, subject=f"node/{node.host}", subject_id=node.id, project="default",
        message=f"node {node.host} of {node.cluster} is {words}", actor=ACTOR,
        data={"cluster": node.cluster, **data},
    )  # fmt: skip
