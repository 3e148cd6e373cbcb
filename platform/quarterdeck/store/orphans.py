"""After a restored backup: supervisors that live and that no row tells of.

The backup is of yesterday, the machines are of today. Agents report every supervisor that is not
in their list to watch (a stranger); until each cluster has done so, nothing that the backup knew
of is started anew. A stranger whose owner can take it is adopted: its run's row is made again, and
its beats are taken from then on. Others stay in `orphans`, for `doctor` and `nodes` to show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import exists, or_, select
from sqlalchemy.orm import Session

from quarterdeck.specs.protocol import AgentBeat
from quarterdeck.store.columns import database_now
from quarterdeck.store.settings import generation, restored_at
from quarterdeck.store.tables import ClusterRow, NodeRow, OrphanRow, RunRow


@dataclass(frozen=True)
class Restore:
    """What is still open since the last restore of a backup."""

    generation: int
    at: datetime
    unheard: tuple[str, ...]
    """Clusters with machines that may live whose agent has not told what lives there."""
    owners: frozenset[str]
    """Ids of jobs and services of which a supervisor lives that is not adopted."""
    runs: frozenset[tuple[str, int]]
    """(run, epoch) of every orphan."""
    nameless: tuple[str, ...]
    """Supervisors that do not say whose they are."""

    def holds(self, owner_id: str, created_at: datetime) -> str:
        """Why an owner may get no new run yet; empty: it may."""
        if created_at > self.at:
            return ""
        if self.unheard:
            return (
                f"a backup was restored, and cluster {', '.join(self.unheard)} has not told yet "
                "what lives there: start its agent, or quarterdeck nodes confirm-dead its machines"
            )
        if owner_id in self.owners:
            return "a backup was restored, and a newer run than it knows of still lives: see doctor"
        if self.nameless:
            return (
                "a backup was restored, and nobody knows whose these supervisors are: "
                + ", ".join(self.nameless[:5])
            )
        return ""


def read_restore(session: Session) -> Restore | None:
    """What is open since the last restore; None: there was none."""
    at = restored_at(session)
    if at is None:
        return None
    now = generation(session)
    maybe_alive = exists(
        select(NodeRow.id).where(NodeRow.cluster == ClusterRow.name, NodeRow.phase != "dead")
    )
    unheard = session.scalars(
        select(ClusterRow.name)
        .where(ClusterRow.generation < now, or_(maybe_alive, ClusterRow.phase == "connected"))
        .order_by(ClusterRow.name)
    ).all()
    rows = orphans(session)
    return Restore(
        generation=now,
        at=at,
        unheard=tuple(unheard),
        owners=frozenset(str(row.description["owner_id"]) for row in rows if row.description),
        runs=frozenset((row.run_id, row.epoch) for row in rows),
        nameless=tuple(f"{row.run_id} ({row.cluster})" for row in rows if not row.description),
    )


def orphans(session: Session) -> Sequence[OrphanRow]:
    """Every supervisor that no row tells of, by cluster."""
    return session.scalars(
        select(OrphanRow).order_by(OrphanRow.cluster, OrphanRow.run_id, OrphanRow.epoch)
    ).all()


def record_strangers(session: Session, cluster: ClusterRow, beat: AgentBeat) -> None:
    """Store which supervisors an agent found beyond its list, where a beat says so.

    What runs by our own rows is no stranger: the agent's list was older than its look.
    """
    if beat.generation is None:
        return
    found = {(stranger.run_id, stranger.epoch): stranger for stranger in beat.strangers}
    claimed = select(RunRow.id, RunRow.epoch).where(
        RunRow.id.in_([run_id for run_id, _ in found]), RunRow.claimed_by.is_not(None)
    )
    for run_id, epoch in session.execute(claimed).all() if found else ():
        found.pop((run_id, epoch), None)
    for row in session.scalars(select(OrphanRow).where(OrphanRow.cluster == cluster.name)):
        if found.pop((row.run_id, row.epoch), None) is None:
            session.delete(row)
        else:
            row.last_seen_at, row.agent_id = database_now(), beat.agent_id
    for stranger in found.values():
        report = stranger.report.model_dump(mode="json") if stranger.report else None
        session.add(
            OrphanRow(
                run_id=stranger.run_id, epoch=stranger.epoch, cluster=cluster.name,
                agent_id=beat.agent_id, description=report,
                detail="" if report else "it does not say whose it is",
            )
        )  # fmt: skip
    cluster.generation = beat.generation
