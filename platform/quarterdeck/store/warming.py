"""Weights that somebody wants on nodes ahead: asked for by people, told of by agents.

Every function that changes something runs in the caller's write transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from quarterdeck.specs.warming import WarmReport, WeightsToWarm
from quarterdeck.store.columns import database_now
from quarterdeck.store.errors import NotFound, WarmingsFull
from quarterdeck.store.outbox import append_event
from quarterdeck.store.tables import AssetVersionRow, NodeRow, WarmingRow
from quarterdeck.store.text import clean

KEPT = timedelta(days=1)
"""How long ended ones are shown."""
MOST_LIVE = 2000
"""Pairs of a version and a node that are wanted and not there yet, of all clusters."""


def ask_for(
    session: Session, asset: AssetVersionRow, nodes: Sequence[NodeRow], *, actor: str
) -> list[WarmingRow]:
    """Want a version on nodes; those that fetch it already go on. Raises WarmingsFull."""
    now = session.execute(select(database_now())).scalar_one()
    session.execute(delete(WarmingRow).where(WarmingRow.ended_at < now - KEPT))
    # One asker a version at a time, so that two do not add the same row.
    session.execute(
        select(AssetVersionRow.id).where(AssetVersionRow.id == asset.id).with_for_update()
    )
    known = {row.node_id: row for row in warmings_of(session, asset.id)}
    rows, begun = [], 0
    for node in nodes:
        row = known.get(node.id)
        if row is None:
            row = WarmingRow(
                asset_id=asset.id, node_id=node.id, cluster=node.cluster, host=node.host, asked=1
            )
            session.add(row)
        elif row.ended_at is None:
            rows.append(row)
            continue
        else:
            row.asked += 1
        row.state, row.found, row.message = "waiting", False, ""
        row.bytes_done, row.rate, row.seconds = 0, 0.0, 0.0
        row.actor, row.asked_at, row.ended_at = actor, now, None
        rows.append(row)
        begun += 1
    session.flush()
    if begun:
        _check_bound(session)
        append_event(
            session,
            type="model.warming",
            subject=f"model/{asset.name}",
            subject_id=asset.id,
            project=asset.project,
            message=f"{asset.name}@{asset.version} is wanted on {begun} nodes ahead",
            actor=actor,
            data={"version": asset.version, "nodes": [node.id for node in nodes]},
        )
    return rows


def warmings_of(session: Session, asset_id: str) -> list[WarmingRow]:
    """Where a version was asked for, by cluster and host."""
    query = select(WarmingRow).where(WarmingRow.asset_id == asset_id)
    order = (WarmingRow.cluster, WarmingRow.host, WarmingRow.node_id)
    return list(session.scalars(query.order_by(*order)))


def wanted_weights(session: Session, cluster: str) -> list[WeightsToWarm]:
    """What the cluster's agent shall bring to nodes, first what was asked for first."""
    query = (
        select(WarmingRow.asset_id, WarmingRow.node_id, WarmingRow.asked)
        .join(NodeRow, NodeRow.id == WarmingRow.node_id)
        .where(
            WarmingRow.cluster == cluster, WarmingRow.ended_at.is_(None), NodeRow.phase != "dead"
        )
        .order_by(WarmingRow.asked_at, WarmingRow.node_id)
    )
    return [
        WeightsToWarm(asset_id=row.asset_id, node_id=row.node_id, asked=row.asked)
        for row in session.execute(query)
    ]


def wanted_version(session: Session, cluster: str, asset_id: str) -> AssetVersionRow:
    """A version that the cluster's agent shall bring to a node. Raises NotFound for others."""
    found = session.scalars(
        select(AssetVersionRow)
        .join(WarmingRow, WarmingRow.asset_id == AssetVersionRow.id)
        .where(
            AssetVersionRow.id == asset_id,
            WarmingRow.cluster == cluster,
            WarmingRow.ended_at.is_(None),
        )
        .limit(1)
    ).one_or_none()
    if found is None:
        raise NotFound("model version to warm", asset_id)
    return found


def record_warmed(session: Session, cluster: str, reports: Sequence[WarmReport]) -> None:
    """Store what an agent tells, and give up what was wanted of dead nodes. Reports of an
    earlier asking, and repetitions, change nothing."""
    live = {
        (row.asset_id, row.node_id, row.asked): row
        for row in session.scalars(
            select(WarmingRow).where(WarmingRow.cluster == cluster, WarmingRow.ended_at.is_(None))
        )
    }
    if not live:
        return
    for report in reports:
        row = live.get((report.asset_id, report.node_id, report.asked))
        if row is None or row.ended_at is not None:
            continue
        row.state, row.found = report.state, report.found
        row.bytes_done, row.rate = report.bytes_done, report.rate
        row.seconds, row.message = report.seconds, clean(report.message, 2000)
        if report.state != "fetching":
            _end(session, row)
    dead = set(
        session.scalars(
            select(NodeRow.id).where(
                NodeRow.id.in_({row.node_id for row in live.values()}), NodeRow.phase == "dead"
            )
        )
    )
    for row in live.values():
        if row.ended_at is None and row.node_id in dead:
            row.state, row.message = "gone", f"node {row.host} died before the weights were there"
            _end(session, row)


def _end(session: Session, row: WarmingRow) -> None:
    row.ended_at = database_now()
    asset = session.get_one(AssetVersionRow, row.asset_id)
    what = f"{asset.name}@{asset.version}"
    if row.state == "ready":
        how = (
            "was there already"
            if row.found
            else f"is there: {row.bytes_done:,} bytes in {row.seconds:.1f} s"
        )
        message = f"{what} on node {row.host} {how}"
    else:
        message = f"{what} is not on node {row.host}: {row.message}"
    append_event(
        session,
        type="model.warmed" if row.state == "ready" else "model.warming_failed",
        subject=f"model/{asset.name}",
        subject_id=asset.id,
        project=asset.project,
        message=message,
        actor=row.actor,
        data={
            "version": asset.version, "node_id": row.node_id, "cluster": row.cluster,
            "found": row.found, "bytes": row.bytes_done, "seconds": row.seconds,
        },
    )  # fmt: skip


def _check_bound(session: Session) -> None:
    live = session.scalar(
        select(func.count()).select_from(WarmingRow).where(WarmingRow.ended_at.is_(None))
    )
    if (live or 0) > MOST_LIVE:
        raise WarmingsFull(MOST_LIVE)
