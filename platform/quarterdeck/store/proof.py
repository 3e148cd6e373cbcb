"""The invariants, proven on a live database: each check looks for rows that must not be.

Every check reads one snapshot and changes nothing. A controller is one step behind what it looks
at, so what a moment explains is no violation: `GRACE_S` is the longest such moment.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

import quarterdeck
from quarterdeck.lifecycle.job import JOB, WITH_RUN
from quarterdeck.lifecycle.run import ENDED
from quarterdeck.specs.accelerator_share import part
from quarterdeck.specs.versions import apart
from quarterdeck.store.capacity import holding_runs
from quarterdeck.store.columns import current_transaction, database_now
from quarterdeck.store.joins import refused_joins
from quarterdeck.store.orphans import orphans, read_restore
from quarterdeck.store.references import secrets_missing
from quarterdeck.store.settings import EPOCHS_A_GENERATION, generation
from quarterdeck.store.slots import SlotCount
from quarterdeck.store.tables import (
    CheckpointRow,
    ClusterRow,
    EventRow,
    JobRow,
    KeyRow,
    NodeRow,
    RunRow,
    SecretRow,
    ServiceRow,
)

GRACE_S = 120.0
_LIVE = RunRow.phase.not_in(sorted(ENDED))


@dataclass(frozen=True)
class Violation:
    """One thing that must not be: whose row, and what is wrong with it."""

    id: str
    message: str


@dataclass(frozen=True)
class Check:
    """One invariant. `notes`: what it finds is worth knowing and violates nothing."""

    name: str
    claim: str
    remedy: str
    look: Callable[[Session], Iterator[Violation]]
    notes: bool = False


def _one_live_run(session: Session) -> Iterator[Violation]:
    query = (
        select(RunRow.owner_id, func.count())
        .where(RunRow.owner_type == "job", _LIVE)
        .group_by(RunRow.owner_id)
        .having(func.count() > 1)
    )
    for owner, count in session.execute(query):
        yield Violation(owner, f"{count} runs of it have not ended")


def _claimed_once(session: Session) -> Iterator[Violation]:
    keys = (
        select(KeyRow.run_id, KeyRow.epoch, func.count())
        .where(KeyRow.access == "run")
        .group_by(KeyRow.run_id, KeyRow.epoch)
        .having(func.count() > 1)
    )
    for run, epoch, count in session.execute(keys):
        yield Violation(str(run), f"{count} keys were given out for its epoch {epoch}")
    claims = session.scalars(select(EventRow.data).where(EventRow.type == "run.claimed"))
    told = Counter((data["run_id"], data["epoch"]) for data in claims)
    for (run, epoch), count in told.items():
        if count > 1:
            yield Violation(run, f"{count} events tell of a claim of its epoch {epoch}")


def _epochs(session: Session) -> Iterator[Violation]:
    """Contiguous and unique by owner in this generation; older ones may have lost some."""
    by_owner: dict[str, list[int]] = defaultdict(list)
    for owner, epoch in session.execute(select(RunRow.owner_id, RunRow.epoch)):
        by_owner[owner].append(epoch)
    first = generation(session) * EPOCHS_A_GENERATION + 1
    for owner, epochs in by_owner.items():
        mine = sorted(epoch for epoch in epochs if epoch >= first)
        if mine != list(range(first, first + len(mine))):
            yield Violation(owner, f"its epochs are not {first}, {first + 1}, …: {mine[:10]}")
    for table in (JobRow, ServiceRow):
        for owner, newest in session.execute(select(table.id, table.epoch)):
            highest = max(by_owner.get(owner, [0]))
            if newest != highest:
                yield Violation(owner, f"it is at epoch {newest}, its newest run at {highest}")


def _jobs_and_runs(session: Session) -> Iterator[Violation]:
    with_run = JobRow.phase.in_(sorted(WITH_RUN)) & JobRow.array_size.is_(None)
    pairs = select(JobRow, RunRow).outerjoin(RunRow, RunRow.id == JobRow.run_id)
    for job, run in session.execute(pairs.where(with_run)):
        if run is None or run.owner_id != job.id or run.epoch != job.epoch:
            yield Violation(job.id, f"job/{job.name} is {job.phase} and has no run of its epoch")
    late = and_(RunRow.phase.in_(sorted(ENDED)), RunRow.ended_at < database_now(-GRACE_S))
    for job, run in session.execute(pairs.where(with_run, late)):
        text = f"job/{job.name} is {job.phase}, its run {run.epoch} has {run.phase}"
        yield Violation(job.id, text)
    query = (
        select(RunRow, JobRow)
        .outerjoin(JobRow, JobRow.id == RunRow.owner_id)
        .where(RunRow.owner_type == "job", _LIVE)
    )
    for run, job in session.execute(query):
        if job is None:
            yield Violation(run.id, f"run {run.epoch} is {run.phase}, its job does not exist")
        elif job.phase not in WITH_RUN or job.run_id != run.id:
            text = f"run {run.epoch} is {run.phase}, job/{job.name} is {job.phase}"
            yield Violation(run.id, text)
    known = select(ServiceRow.id)
    homeless = select(RunRow).where(
        RunRow.owner_type == "service", _LIVE, RunRow.owner_id.not_in(known)
    )
    for run in session.scalars(homeless):
        yield Violation(run.id, f"run {run.epoch} is {run.phase}, its service does not exist")


def _slots(session: Session) -> Iterator[Violation]:
    count = SlotCount()
    for run in holding_runs(session):
        count.add(run.placements)
    held = count.slots
    overfull = {node: (number, parts) for node, number, parts in count.overfull()}
    for node in session.scalars(select(NodeRow).where(NodeRow.id.in_(sorted(held)))):
        if node.phase != "dead" and held[node.id] > node.slots:
            text = f"runs hold {held[node.id]} slots of {node.host}, which has {node.slots}"
            yield Violation(node.id, text)
        if node.phase != "dead" and node.id in overfull:
            number, parts = overfull[node.id]
            text = f"replicas hold {part(parts)} of {node.host}'s shared slot {number}"
            yield Violation(node.id, text)


def _beats(session: Session) -> Iterator[Violation]:
    unclaimed = and_(
        RunRow.claimed_by.is_(None), or_(RunRow.beat_seq > 0, RunRow.last_beat_at.is_not(None))
    )
    for run in session.scalars(select(RunRow).where(unclaimed)):
        yield Violation(run.id, f"run {run.epoch} of {run.owner_name} spoke and was never claimed")
    gaps: Counter[str] = Counter()
    for data in session.scalars(select(EventRow.data).where(EventRow.type == "telemetry_gap")):
        gaps[str(data.get("run_id"))] += int(data.get("beats", 0))
    ids = [run for run, lost in gaps.items() if lost]
    for run_id, seq in session.execute(
        select(RunRow.id, RunRow.beat_seq).where(RunRow.id.in_(ids))
    ):
        if gaps[run_id] > seq:
            yield Violation(run_id, f"{gaps[run_id]} beats are told missing of only {seq}")


def _checkpoints(session: Session) -> Iterator[Violation]:
    query = (
        select(CheckpointRow, RunRow)
        .outerjoin(RunRow, RunRow.id == CheckpointRow.run_id)
        .where(CheckpointRow.state == "registered")
    )
    for row, run in session.execute(query):
        if run is None or run.owner_id != row.job_id or run.epoch != row.epoch:
            text = f"step {row.step} of job/{row.job_name}, epoch {row.epoch}, is of no run"
            yield Violation(row.id, text)


def _phases_and_events(session: Session) -> Iterator[Violation]:
    """The newest event of a phase tells the phase; see transitions.py."""
    newest = (
        select(func.max(EventRow.id))
        .where(EventRow.type == "job.phase")
        .group_by(EventRow.subject_id)
    )
    told = {
        subject: data.get("to")
        for subject, data in session.execute(
            select(EventRow.subject_id, EventRow.data).where(EventRow.id.in_(newest))
        )
    }
    for job_id, name, phase in session.execute(select(JobRow.id, JobRow.name, JobRow.phase)):
        if told.get(job_id, JOB.initial) != phase:
            text = f"job/{name} is {phase}, its newest event says {told.get(job_id, JOB.initial)}"
            yield Violation(job_id, text)


def _event_order(session: Session) -> Iterator[Violation]:
    if session.get_bind().dialect.name != "postgresql":
        return
    ahead = select(EventRow.id).where(EventRow.transaction_id > current_transaction()).limit(100)
    for event in session.scalars(ahead):
        yield Violation(str(event), "it is of a transaction that has not begun: no reader sees it")


def _leases(session: Session) -> Iterator[Violation]:
    for table, ended in (
        (JobRow, JobRow.phase.in_(("waiting", "queued"))),
        (RunRow, _LIVE),
        (ServiceRow, ServiceRow.phase != "stopped"),
    ):
        stuck = or_(
            table.lease_until > database_now(3600.0), table.lease_until < database_now(-GRACE_S)
        )
        late = and_(table.lease_until.is_(None), table.due_at < database_now(-GRACE_S))
        query = select(table.id, table.lease_until).where(ended, or_(stuck, late))
        if table is JobRow:
            query = query.where(JobRow.desired == "run", JobRow.held.is_(False))
        for row_id, until in session.execute(query.limit(100)):
            what = (
                f"a lease that ends {until:%Y-%m-%d %H:%M:%SZ} lies on it" if until else "it waits"
            )
            yield Violation(row_id, f"{what}, and no controller looks at it")


def _orphans(session: Session) -> Iterator[Violation]:
    for row in orphans(session):
        text = (
            f"epoch {row.epoch} lives on cluster {row.cluster}: {row.detail or 'not adopted yet'}"
        )
        yield Violation(row.run_id, text)


def _restored(session: Session) -> Iterator[Violation]:
    restore = read_restore(session)
    for cluster in restore.unheard if restore else ():
        yield Violation(cluster, "it has not told what lives there since a backup was restored")


def _quarantined(session: Session) -> Iterator[Violation]:
    for run in session.scalars(select(RunRow).where(RunRow.quarantined)):
        hosts = ", ".join(sorted({str(place["node_id"]) for place in run.placements}))
        text = f"run {run.epoch} of {run.owner_type}/{run.owner_name} may still live on {hosts}"
        yield Violation(run.id, text)


def _versions(session: Session) -> Iterator[Violation]:
    heads = {row.name: row for row in session.scalars(select(ClusterRow))}
    for name, row in sorted(heads.items()):
        for host, what in refused_joins(session, row):
            yield Violation(host, f"cluster/{name} does not take it: it has {what}")
    for node in session.scalars(select(NodeRow).where(NodeRow.phase == "alive")):
        if found := apart(node.versions or {}, heads[node.cluster].versions):
            text = f"node {node.host} of cluster/{node.cluster} has {' and '.join(found)}"
            yield Violation(node.id, text)


def _releases(session: Session) -> Iterator[Violation]:
    here = quarterdeck.__version__
    for row in session.scalars(select(ClusterRow).where(ClusterRow.phase == "connected")):
        told = row.versions.get("quarterdeck", here)
        if told != here:
            yield Violation(row.id, f"cluster/{row.name}'s agent is of {told}, the api of {here}")
    for node in session.scalars(select(NodeRow).where(NodeRow.phase == "alive")):
        told = (node.versions or {}).get("quarterdeck", here)
        if told != here:
            text = f"node {node.host} of cluster/{node.cluster} is of {told}, the api of {here}"
            yield Violation(node.id, text)


def _secrets(session: Session) -> Iterator[Violation]:
    present: dict[str, set[str]] = defaultdict(set)
    for project, name in session.execute(select(SecretRow.project, SecretRow.name)):
        present[project].add(name)
    query = select(JobRow).where(JobRow.phase.in_(("waiting", "queued", "suspended")))
    for job in session.scalars(query):
        names = [str(secret["name"]) for secret in job.spec.get("secrets") or ()]
        if said := secrets_missing(job.project, names, present[job.project]):
            yield Violation(job.id, f"job/{job.name}: {said}")


_REPORT = "this must not be: stop the controllers, keep a copy (db backup), and report it"
_CONTROLLER = "start a controller, or read its log: something fails there"
CHECKS: tuple[Check, ...] = (
    Check("one-live-run", "no job has two live runs", _REPORT, _one_live_run),
    Check("claimed-once", "no run was claimed twice", _REPORT, _claimed_once),
    Check("epochs", "epochs are unique and leave no gap", _REPORT, _epochs),
    Check("jobs-and-runs", "phases of jobs and of their runs agree", _CONTROLLER, _jobs_and_runs),
    Check(
        "phases-and-events", "every phase was told by an event", _REPORT, _phases_and_events
    ),
    Check(
        "slots", "no node holds more than it has",
        "cordon the node until runs have left it: quarterdeck nodes cordon NODE", _slots,
    ),
    Check("beats", "only claimed runs speak, and no gap is larger than what was said", _REPORT,
          _beats),
    Check("checkpoints", "every registered checkpoint is of a run", _REPORT, _checkpoints),
    Check("event-order", "readers see every event", _REPORT, _event_order),
    Check("leases", "no lease is stuck", _CONTROLLER, _leases),
    Check(
        "orphans", "no supervisor lives without a row",
        "the message says what its owner lacks; what nobody can take ends with its cluster's Ray",
        _orphans,
    ),
    Check(
        "restored", "every cluster has told what lives since a restore",
        "start the cluster's agent, or quarterdeck nodes confirm-dead its machines", _restored,
        notes=True,
    ),
    Check(
        "versions", "the machines of each cluster have its head's Ray and Python",
        "give the machine what its cluster's head has, the same image or environment (the same Ray,"
        " the same Python to the patch version), and start its agent again", _versions,
    ),
    Check(
        "releases", "agents and api are of one version",
        "agents of the version before work: upgrade them when their runs may resume", _releases,
        notes=True,
    ),
    Check(
        "secrets", "jobs that have yet to run have their secrets",
        "quarterdeck secrets set NAME, or cancel the job", _secrets,
    ),
    Check(
        "quarantined", "given-up runs that may still live",
        "when the machine is gone: quarterdeck nodes confirm-dead HOST --reason TEXT", _quarantined,
        notes=True,
    ),
)  # fmt: skip


def registered_checkpoints(session: Session) -> list[CheckpointRow]:
    """Every checkpoint that exists, newest first."""
    query = select(CheckpointRow).where(CheckpointRow.state == "registered")
    return list(session.scalars(query.order_by(CheckpointRow.created_at.desc())))
