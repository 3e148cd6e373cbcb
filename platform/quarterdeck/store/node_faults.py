"""Faults of machines: noted when an attempt fails, cleared when a machine is uncordoned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import CursorResult, select, update
from sqlalchemy.orm import Session
from sqlalchemy.sql.expression import ColumnElement

from quarterdeck.lifecycle.faults import NODE_FAILURE, WINDOW_S, Fault, cordon_reason
from quarterdeck.store.columns import database_now
from quarterdeck.store.inserts import insert_ignoring
from quarterdeck.store.outbox import append_event
from quarterdeck.store.tables import JobRow, NodeFaultRow, NodeRow, RunRow, ServiceRow
from quarterdeck.store.text import clean
from quarterdeck.store.transitions import ACTOR

Machine = tuple[str, str, str]
"""Cluster, host and address: the same over restarts of its raylet."""


def faults_of(session: Session, owners: Iterable[str]) -> Mapping[str, list[NodeFaultRow]]:
    """Faults that are not cleared, by owner."""
    return _by_owner(session, NodeFaultRow.owner_id.in_(list(owners)))


def faults_of_waiting(session: Session) -> Mapping[str, list[NodeFaultRow]]:
    """`faults_of` all queued jobs and all services."""
    queued = select(JobRow.id).where(JobRow.phase == "queued")
    return _by_owner(session, NodeFaultRow.owner_id.in_(queued.union_all(select(ServiceRow.id))))


def _by_owner(session: Session, owners: ColumnElement[bool]) -> Mapping[str, list[NodeFaultRow]]:
    found: dict[str, list[NodeFaultRow]] = {}
    rows = session.scalars(
        select(NodeFaultRow)
        .where(owners, NodeFaultRow.cleared_at.is_(None))
        .order_by(NodeFaultRow.id)
    )
    for row in rows:
        found.setdefault(row.owner_id, []).append(row)
    return found


def newest_faults(session: Session, limit: int = 500) -> Mapping[Machine, list[NodeFaultRow]]:
    """The newest faults that are not cleared, by machine."""
    found: dict[Machine, list[NodeFaultRow]] = {}
    rows = session.scalars(
        select(NodeFaultRow)
        .where(NodeFaultRow.cleared_at.is_(None))
        .order_by(NodeFaultRow.id.desc())
        .limit(limit)
    )
    for row in rows:
        found.setdefault((row.cluster, row.host, row.address), []).append(row)
    return found


def as_fault(row: NodeFaultRow) -> Fault:
    """A row as lifecycle judges it."""
    machine = (row.host, row.address)
    return Fault(machine, row.owner_id, row.policy, row.epoch, row.rank, row.message, row.trusted)


def note_faults(
    session: Session, run: RunRow, blamed: Sequence[Mapping[str, Any]], failure: Mapping[str, Any]
) -> None:
    """Write down the machines that failed `run`: those of `blamed` (beats.LogMatch), else the
    living one of the rank that failed first, where the node is to blame. A host that failed
    enough owners is cordoned."""
    nodes = {
        node.id: node
        for node in session.scalars(
            select(NodeRow).where(
                NodeRow.id.in_([placement["node_id"] for placement in run.placements])
            )
        )
    }
    noted: dict[str, NodeRow] = {}
    for match in blamed:
        node = nodes.get(match["node_id"])
        if node is not None:
            policy, line = str(match["policy"]), str(match["line"])
            _insert(session, run, node, policy, line, match["rank"], bool(match["trusted"]))
            noted[node.id] = node
    if not blamed and failure.get("blame") == "node" and failure.get("rank") is not None:
        placed = {placement["rank"]: placement["node_id"] for placement in run.placements}
        node = nodes.get(placed.get(failure["rank"], ""))
        # A machine that died is gone anyhow: one power cut must not look like many faults.
        if node is not None and node.phase == "alive":
            message = str(failure.get("message", "")).strip().splitlines()
            _insert(
                session, run, node, NODE_FAILURE, message[0] if message else "", failure["rank"],
                True,
            )  # fmt: skip
            noted[node.id] = node
    for node in noted.values():
        _cordon_repeated(session, node)


def _insert(
    session: Session, run: RunRow, node: NodeRow, policy: str, message: str, rank: int | None,
    trusted: bool,
) -> None:  # fmt: skip
    session.execute(
        insert_ignoring(session, NodeFaultRow, ["run_id", "node_id", "policy"]).values(
            cluster=node.cluster, host=node.host, address=node.address, node_id=node.id,
            owner_id=run.owner_id, owner_name=run.owner_name, run_id=run.id, epoch=run.epoch,
            rank=rank, policy=policy, message=clean(message, 300), trusted=trusted,
        )
    )  # fmt: skip
    append_event(
        session,
        type="node.fault",
        subject=f"node/{node.host}",
        subject_id=node.id,
        project=run.project,
        message=f"{policy} of node {node.host} in run {run.epoch} of {run.owner_type}/"
        f"{run.owner_name}: {message}",
        actor=ACTOR,
        data={"cluster": node.cluster, "policy": policy, "run_id": run.id, "rank": rank},
    )


def _cordon_repeated(session: Session, node: NodeRow) -> None:
    recent = session.scalars(
        select(NodeFaultRow).where(
            NodeFaultRow.cluster == node.cluster,
            NodeFaultRow.host == node.host,
            NodeFaultRow.address == node.address,
            NodeFaultRow.cleared_at.is_(None),
            NodeFaultRow.at > database_now(-WINDOW_S),
        )
    )
    reason = cordon_reason([as_fault(row) for row in recent])
    if not reason or node.cordoned:
        return
    session.execute(
        update(NodeRow)
        .where(
            NodeRow.cluster == node.cluster,
            NodeRow.host == node.host,
            NodeRow.address == node.address,
        )
        .values(cordoned=True, cordon_reason=reason)
    )
    append_event(
        session,
        type="node.cordoned",
        subject=f"node/{node.host}",
        subject_id=node.id,
        project="default",
        message=f"node {node.host} of {node.cluster} is closed to new runs: {reason}",
        actor=ACTOR,
        data={"cluster": node.cluster, "reason": "RepeatedFaults"},
    )


def clear_faults(session: Session, node: NodeRow) -> int:
    """Forget a machine's faults: every owner may run there again. How many there were."""
    result = session.execute(
        update(NodeFaultRow)
        .where(
            NodeFaultRow.cluster == node.cluster,
            NodeFaultRow.host == node.host,
            NodeFaultRow.address == node.address,
            NodeFaultRow.cleared_at.is_(None),
        )
        .values(cleared_at=database_now())
        .execution_options(synchronize_session=False)
    )
    assert isinstance(result, CursorResult)
    return int(result.rowcount)
