"""Clusters that pools make for one run each: wanted, ending, forgotten.

A row of `pools` with an owner is the wish for such a cluster; it is there before the RayCluster is,
and goes after it. Whoever leases it carries out what it says, so that nothing is left behind by a
controller that ends in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session

from quarterdeck.lifecycle.run import ENDED
from quarterdeck.specs.pools import Pool
from quarterdeck.store.columns import database_now
from quarterdeck.store.dead_nodes import confirm_dead
from quarterdeck.store.inserts import insert_ignoring
from quarterdeck.store.tables import ClusterRow, JobRow, NodeRow, OrphanRow, PoolRow, RunRow

AFTER_S = 30.0
"""So long after its run's end a cluster stays: supervisors tell what they still know."""
REMEMBERED_S = 86_400.0
"""Machines of clusters that are gone are shown for so long."""
GONE = "gone"
"""The phase of a cluster that was deleted."""


def waiting_jobs(session: Session, limit: int) -> Sequence[JobRow]:
    """Queued jobs that ask for an image, in the order of the queue."""
    return session.scalars(
        select(JobRow)
        .where(
            JobRow.phase == "queued",
            JobRow.desired == "run",
            JobRow.array_size.is_(None),
            JobRow.spec["environment"]["image"].as_string().is_not(None),
        )
        .order_by(JobRow.priority.desc(), JobRow.ordinal)
        .limit(limit)
    ).all()


def own_clusters(session: Session, pool: str) -> Sequence[PoolRow]:
    """Those made from a pool, by age."""
    query = select(PoolRow).where(PoolRow.of_pool == pool)
    return session.scalars(query.order_by(PoolRow.created_at, PoolRow.name)).all()


def want_own(session: Session, made: Pool, of_pool: str, job: JobRow, image: str) -> None:
    """Write down that the job's next run gets the cluster `made`."""
    values: dict[str, Any] = {
        "name": made.name, "namespace": made.namespace, "object": made.object_name,
        "project": made.project, "groups": [one.model_dump(mode="json") for one in made.groups],
        "sizes": {}, "idle_since": {}, "reason": "", "message": "", "looked_at": database_now(),
        "of_pool": of_pool, "owner_id": job.id, "owner_epoch": job.epoch, "image": image,
        "ending": False,
    }  # fmt: skip
    session.execute(insert_ignoring(session, PoolRow, ["name"]).values(values))


def end_if_done(session: Session, name: str) -> bool:
    """Whether the cluster ends: nobody waits for it any more, and nothing lives there. Once said
    it stays so, and nothing is placed there (capacity.py looks under the same lock)."""
    session.execute(
        select(ClusterRow.name).where(ClusterRow.name == name).with_for_update()
    ).first()
    row = session.get_one(PoolRow, name, with_for_update=True)
    if row.ending:
        return True
    job = session.get(JobRow, row.owner_id)
    waits = job is not None and job.phase == "queued" and job.desired == "run"
    if job is not None and waits and job.epoch == row.owner_epoch:
        return False
    lately = or_(RunRow.phase.not_in(sorted(ENDED)), RunRow.ended_at > database_now(-AFTER_S))
    runs = select(RunRow.id).where(RunRow.cluster == name, lately).limit(1)
    row.ending = session.scalar(runs) is None
    return row.ending


def forget(session: Session, name: str) -> None:
    """The RayCluster is deleted, its pods too: what ran there is proven dead."""
    for node in session.scalars(select(NodeRow).where(NodeRow.cluster == name)):
        reason = f"RayCluster of {name} was deleted"
        confirm_dead(session, node, actor="kubernetes", reason=reason, force=True)
    cluster = session.scalars(select(ClusterRow).where(ClusterRow.name == name)).one_or_none()
    if cluster is not None:
        cluster.phase = GONE
    session.execute(delete(PoolRow).where(PoolRow.name == name))
    _forget_old(session)


def _forget_old(session: Session) -> None:
    old = select(ClusterRow.name).where(
        ClusterRow.phase == GONE, ClusterRow.last_beat_at < database_now(-REMEMBERED_S)
    )
    names = list(session.scalars(old.limit(100)))
    held = select(RunRow.cluster).where(RunRow.cluster.in_(names), RunRow.quarantined)
    gone = set(names) - set(session.scalars(held))
    for row in (OrphanRow, NodeRow):
        session.execute(delete(row).where(row.cluster.in_(gone)))
    session.execute(delete(ClusterRow).where(ClusterRow.name.in_(gone)))
