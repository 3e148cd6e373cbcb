"""What admission reads and writes about jobs that wait."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

from sqlalchemy import and_, not_, or_, select, update
from sqlalchemy.orm import Session

from quarterdeck.lifecycle.run import ENDED
from quarterdeck.specs.tenancy import Tenancy
from quarterdeck.store.capacity import Holding, holding_runs
from quarterdeck.store.columns import database_now
from quarterdeck.store.errors import StaleRow
from quarterdeck.store.leases import claim_rows
from quarterdeck.store.node_faults import faults_of_waiting
from quarterdeck.store.orphans import Restore, read_restore
from quarterdeck.store.outbox import append_event
from quarterdeck.store.own_clusters import GONE
from quarterdeck.store.pools import fresh_pools
from quarterdeck.store.tables import (
    ClusterRow,
    JobRow,
    NodeFaultRow,
    NodeRow,
    PoolRow,
    RevisionRow,
    RunRow,
    SecretRow,
    ServiceRow,
)
from quarterdeck.store.tenants import read_tenancy
from quarterdeck.store.text import clean
from quarterdeck.store.transitions import ACTOR

LEASE_S = 30.0
VIEW = 5_000
"""Of a longer queue only the first are planned, beside those that are leased: that many hold what
they wait for against all behind them."""


@dataclass(frozen=True)
class World:
    """One consistent look at capacity and at everything that wants it."""

    now: datetime
    clusters: Sequence[ClusterRow]
    nodes: Sequence[NodeRow]
    holding: Sequence[Holding]
    jobs: Sequence[JobRow]
    services: Sequence[ServiceRow]
    revisions: Mapping[tuple[str, int], RevisionRow]
    """Those of which replicas are wanted, by service id and number."""
    live_replicas: Mapping[str, Sequence[RunRow]]
    """Runs that have not ended, by service id."""
    secrets: frozenset[tuple[str, str]]
    """(project, name) of every secret that a queued job may name."""
    faults: Mapping[str, Sequence[NodeFaultRow]] = field(default_factory=dict)
    """Of machines, by the job or service that they failed."""
    restore: Restore | None = None
    """What is open since a backup was restored."""
    pools: Sequence[PoolRow] = ()
    """Those that may bring machines."""
    tenancy: Tenancy = field(default_factory=Tenancy)
    """Whose clusters are whose."""

    @cached_property
    def own_clusters(self) -> Mapping[tuple[str, int], PoolRow]:
        """Clusters that are made for one run each, by its job and the job's epoch before it."""
        return {
            (row.owner_id, row.owner_epoch): row
            for row in self.pools
            if row.owner_id is not None and row.owner_epoch is not None
        }

    @cached_property
    def quarantine(self) -> Mapping[str, frozenset[str]]:
        """Nodes on which a given-up run of the owner may live, by owner id."""
        nodes: dict[str, set[str]] = {}
        for run in self.holding:
            if run.quarantined:
                held = nodes.setdefault(run.owner_id, set())
                held.update(placement["node_id"] for placement in run.placements)
        return {owner: frozenset(held) for owner, held in nodes.items()}


def claim_jobs(session: Session, lease_id: str, limit: int = 3000) -> list[str]:
    """Lease the jobs that admission may move."""
    phases = JobRow.phase.in_(("waiting", "queued"))
    woken = and_(JobRow.phase == "suspended", JobRow.desired != "suspend")
    held = and_(JobRow.held, JobRow.desired != "cancel")
    # What its members do moves an array, except that it waits for other jobs like everything.
    by_members = and_(
        JobRow.array_size.is_not(None), or_(JobRow.phase == "queued", JobRow.desired == "cancel")
    )
    return claim_rows(
        session,
        JobRow,
        [phases | woken, not_(held), not_(by_members)],
        lease_id=lease_id,
        seconds=LEASE_S,
        limit=limit,
    )


def jobs_by_id(session: Session, ids: Sequence[str]) -> Sequence[JobRow]:
    """The leased jobs, in order."""
    return session.scalars(
        select(JobRow).where(JobRow.id.in_(ids)).order_by(JobRow.ordinal, JobRow.id)
    ).all()


def world(session: Session, leased: Sequence[str] = ()) -> World:
    """Clusters, machines, holds, queued jobs (the first of all, and the `leased` ones) and
    services that may lack replicas."""
    # First: see capacity.usage.
    clusters = session.scalars(select(ClusterRow).where(ClusterRow.phase != GONE)).all()
    services = session.scalars(
        select(ServiceRow)
        .where(ServiceRow.desired == "run", ServiceRow.phase != "stopped")
        .order_by(ServiceRow.ordinal)
    ).all()
    revisions: dict[tuple[str, int], RevisionRow] = {}
    replicas: dict[str, list[RunRow]] = {}
    if services:
        ids = [service.id for service in services]
        numbers = {number for service in services for number in wanted_revisions(service)}
        for revision in session.scalars(
            select(RevisionRow).where(
                RevisionRow.service_id.in_(ids), RevisionRow.revision.in_(sorted(numbers))
            )
        ):
            revisions[revision.service_id, revision.revision] = revision
        for run in session.scalars(
            select(RunRow)
            .where(RunRow.owner_id.in_(ids), RunRow.phase.not_in(sorted(ENDED)))
            .order_by(RunRow.epoch)
        ):
            replicas.setdefault(run.owner_id, []).append(run)
    jobs = _queue(session, leased)
    secrets: frozenset[tuple[str, str]] = frozenset()
    if any(job.spec.get("secrets") for job in jobs):
        found = session.execute(select(SecretRow.project, SecretRow.name))
        secrets = frozenset((project, name) for project, name in found)
    return World(
        now=session.execute(select(database_now())).scalar_one(),
        clusters=clusters,
        nodes=session.scalars(select(NodeRow).where(NodeRow.phase != "dead")).all(),
        holding=holding_runs(session),
        jobs=jobs,
        services=services,
        revisions=revisions,
        live_replicas=replicas,
        secrets=secrets,
        faults=faults_of_waiting(session),
        restore=read_restore(session),
        pools=fresh_pools(session),
        tenancy=read_tenancy(session),
    )


def wanted_revisions(service: ServiceRow) -> Mapping[int, int]:
    """How many replicas of each revision the controller wants."""
    wanted = (service.rollout or {}).get("wanted") or {}
    return {int(number): int(count) for number, count in wanted.items()}


def _queue(session: Session, leased: Sequence[str]) -> list[JobRow]:
    queued = select(JobRow).where(
        JobRow.phase == "queued", JobRow.desired == "run", JobRow.array_size.is_(None)
    )
    first = queued.order_by(JobRow.priority.desc(), JobRow.ordinal).limit(VIEW)
    jobs = {job.id: job for job in session.scalars(first)}
    if len(jobs) == VIEW and (others := [each for each in leased if each not in jobs]):
        jobs |= {job.id: job for job in session.scalars(queued.where(JobRow.id.in_(others)))}
    return sorted(jobs.values(), key=lambda job: (-job.priority, job.ordinal))


def note_pending(
    session: Session,
    job: JobRow,
    *,
    lease_id: str,
    reason: str,
    message: str,
    facts: Sequence[str] = (),
    starts_at: datetime | None = None,
) -> None:
    """Say why a job still waits. A new reason is an event; a new wording is not."""
    message = clean(message)
    same = (job.reason, job.message, list(job.facts), job.starts_at)
    if same == (reason, message, list(facts), starts_at):
        return
    changed = session.scalars(
        update(JobRow)
        .where(JobRow.id == job.id, JobRow.lease_id == lease_id, JobRow.phase == job.phase)
        .values(reason=reason, message=message, facts=list(facts), starts_at=starts_at)
        .returning(JobRow.id)
        .execution_options(synchronize_session=False)
    ).first()
    if changed is not None and job.reason != reason:
        append_event(
            session,
            type="job.pending",
            subject=f"job/{job.name}",
            subject_id=job.id,
            project=job.project,
            message=f"{job.phase}: {reason} ({message})",
            actor=ACTOR,
            data={"reason": reason},
        )


def note_services_pending(session: Session, facts: Mapping[str, Sequence[str]]) -> None:
    """Say why replicas wait, by service id; empty: none does. Words for people alone: nothing is
    decided by them, so nothing guards them."""
    for service_id, said in facts.items():
        session.execute(
            update(ServiceRow)
            .where(ServiceRow.id == service_id)
            .values(facts=[clean(fact) for fact in said])
            .execution_options(synchronize_session=False)
        )


def service_as_read(session: Session, service: ServiceRow) -> ServiceRow:
    """The row again, in this session; raises StaleRow unless it is as `service` was read."""
    current = session.get(ServiceRow, service.id)
    if (
        current is None
        or current.epoch != service.epoch
        or current.version != service.version
        or current.desired != service.desired
    ):
        raise StaleRow(f"service {service.id} changed since epoch {service.epoch}")
    return current
