"""What agents do: report their cluster, ask for work, claim runs.

Every function runs in the caller's write transaction, except `work_for`, which only reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import CursorResult, select, update
from sqlalchemy.orm import Session
from sqlalchemy.sql.expression import ColumnElement

from quarterdeck.lifecycle.run import ENDED
from quarterdeck.specs.protocol import (
    AgentBeat,
    AgentWork,
    Claim,
    NodeReport,
    RunToKill,
    RunToStart,
)
from quarterdeck.store.columns import database_now
from quarterdeck.store.errors import AgentSuperseded, AlreadyClaimed, NotFound, StaleEpoch
from quarterdeck.store.ids import new_id
from quarterdeck.store.orphans import record_strangers
from quarterdeck.store.outbox import append_event
from quarterdeck.store.pools import leaving_pods, pod_of, why_it_leaves
from quarterdeck.store.settings import generation
from quarterdeck.store.tables import ClusterRow, JobRow, KeyRow, NodeRow, RunRow
from quarterdeck.store.text import clean

CLOCKS_DIFFER_S = 60.0
"""Starts of two agents that are nearer to each other are not told apart by their clocks."""
MOST_RETIRED = 20
GAP_S = 30.0
"""A cluster unheard for longer starts its hearing anew: see ClusterRow.heard_since."""
MOST_STARTS = 500
"""Runs to start in one answer."""
_MOST_NAMED = 5000
"""Rows that one statement names."""


def record_agent_beat(
    session: Session, cluster: str, beat: AgentBeat, *, encrypted_token: bytes | None = None
) -> ClusterRow:
    """Store what an agent sees. The first beat creates the cluster.

    `encrypted_token` is `beat.ray_token`, encrypted by the caller. Raises AgentSuperseded for an
    agent that started before the one that holds the cluster.
    """
    row = session.scalars(
        select(ClusterRow).where(ClusterRow.name == cluster).with_for_update()
    ).one_or_none()
    if row is None:
        row = ClusterRow(
            id=new_id("cluster"), name=cluster, project=beat.project, generation=generation(session)
        )  # fmt: skip
        session.add(row)
        session.flush()
        append_event(
            session,
            type="cluster.joined",
            subject=f"cluster/{cluster}",
            subject_id=row.id,
            project="default",
            message=f"cluster {cluster} joined with {len(beat.nodes)} nodes",
            actor=beat.agent_id,
        )
    elif row.agent_id not in (None, beat.agent_id):
        _take_over(row, beat)
    now = session.execute(select(database_now())).scalar_one()
    if row.last_beat_at is None or now - row.last_beat_at > timedelta(seconds=GAP_S):
        row.heard_since = now
    row.agent_id = beat.agent_id
    row.agent_started_at = beat.started_at
    row.address = beat.address
    row.endpoints_reachable = beat.endpoints_reachable
    if row.project != beat.project:
        _change_owner(session, row, beat)
    row.versions = dict(beat.versions)
    row.last_beat_at = now
    if encrypted_token is not None:
        row.ray_token = encrypted_token
    _record_nodes(session, cluster, beat)
    _record_sightings(session, cluster, beat)
    record_strangers(session, row, beat)
    return row


def _take_over(row: ClusterRow, beat: AgentBeat) -> None:
    """Let an agent that comes second replace the first, unless it is the older one.

    Clocks of machines differ, so near starts are ordered by the first beat to arrive, and who was
    replaced once stays so. Raises AgentSuperseded.
    """
    retired = list(row.retired_agents or [])
    tolerated = timedelta(seconds=CLOCKS_DIFFER_S)
    since = row.agent_started_at
    if beat.agent_id in retired or (since is not None and beat.started_at < since - tolerated):
        raise AgentSuperseded(row.name, beat.agent_id)
    row.retired_agents = [*retired, row.agent_id][-MOST_RETIRED:]


def _change_owner(session: Session, row: ClusterRow, beat: AgentBeat) -> None:
    before, row.project = row.project, beat.project
    append_event(
        session, type="cluster.project", subject=f"cluster/{row.name}", subject_id=row.id,
        project=row.project or "default", actor=beat.agent_id,
        message=f"cluster {row.name} {_whose('is', row.project)}, {_whose('was', before)}",
        data={"project": row.project, "before": before},
    )  # fmt: skip


def _whose(verb: str, project: str | None) -> str:
    return f"{verb} of project {project} alone" if project else f"{verb} shared"


def _record_nodes(session: Session, cluster: str, beat: AgentBeat) -> None:
    known = {
        row.id: row for row in session.scalars(select(NodeRow).where(NodeRow.cluster == cluster))
    }
    before = list(known.values())
    fresh = any(report.node_id not in known for report in beat.nodes)
    leaving = leaving_pods(session, cluster) if fresh else frozenset()
    for report in beat.nodes:
        row = known.pop(report.node_id, None)
        if row is None:
            row = NodeRow(id=report.node_id, cluster=cluster, slots=report.slots)
            if (last := _same_machine(before, report)) is not None:
                row.cordoned, row.cordon_reason = last.cordoned, last.cordon_reason
            if not row.cordoned and (pod := pod_of(report.labels, report.host)) in leaving:
                # It joins in the moment in which its pool takes it away.
                row.cordoned, row.cordon_reason = True, why_it_leaves(pod)
            session.add(row)
        row.host, row.address = report.host, report.address
        # A confirmed death is final: such a machine comes back with a new raylet.
        row.phase = "alive" if report.alive and row.confirmed_dead is None else "dead"
        row.accelerator, row.slots = report.accelerator, report.slots
        row.cpus, row.memory = report.cpus, report.memory
        row.labels, row.is_head = dict(report.labels), report.is_head
        row.versions = dict(report.versions) or None
    session.flush()
    # Of all at once: row by row a cluster of a thousand machines would cost as many statements.
    seen = [report.node_id for report in beat.nodes]
    for first in range(0, len(seen), _MOST_NAMED):
        session.execute(
            update(NodeRow)
            .where(NodeRow.id.in_(seen[first : first + _MOST_NAMED]))
            .values(last_seen_at=database_now())
            .execution_options(synchronize_session=False)
        )
    for row in known.values():
        # Ray forgets a dead raylet after a while, and a restarted head knows none of the old.
        if row.phase != "dead":
            row.phase = "dead"


def _same_machine(known: Sequence[NodeRow], report: NodeReport) -> NodeRow | None:
    """The row of a machine's raylet before the one that has just started, whose cordon it keeps.

    A host that comes back with a new address is the same machine, unless several live on it,
    which only their addresses tell apart.
    """
    host = [row for row in known if row.host == report.host]
    same = [row for row in host if row.address == report.address]
    if not same and all(row.phase == "dead" for row in host):
        same = host
    return max(same, key=lambda row: row.created_at, default=None)


def _record_sightings(session: Session, cluster: str, beat: AgentBeat) -> None:
    for sighting in beat.runs:
        session.execute(
            update(RunRow)
            .where(
                RunRow.id == sighting.run_id,
                RunRow.epoch == sighting.epoch,
                RunRow.cluster == cluster,
                RunRow.claimed_by.is_not(None),
                # Death is final: a later, confused sighting does not take it back.
                (RunRow.sighted.is_(None)) | (RunRow.sighted != "dead"),
            )
            .values(
                sighted=sighting.state,
                sighted_at=database_now(),
                sighted_detail=clean(sighting.detail, 4000),
            )
            .execution_options(synchronize_session=False)
        )


def work_for(session: Session, cluster: str) -> AgentWork:
    """What the cluster's agent has to do now; empty lists when there is nothing.

    Of very many runs to start it gets the oldest first: it asks again once it has claimed them.
    """
    work = AgentWork(generation=generation(session))
    oldest_first = (RunRow.created_at, RunRow.id)
    unclaimed = session.execute(
        select(RunRow.id, RunRow.epoch)
        .where(
            RunRow.cluster == cluster,
            RunRow.phase == "assigned",
            RunRow.claimed_by.is_(None),
            RunRow.generation == work.generation,
        )
        .order_by(*oldest_first)
        .limit(MOST_STARTS)
    )
    work.start = [RunToStart(run_id=row.id, epoch=row.epoch) for row in unclaimed]
    claimed = session.execute(
        select(RunRow.id, RunRow.epoch, RunRow.kill_requested, RunRow.kill_reason, RunRow.reason)
        .where(RunRow.cluster == cluster, _unsettled(), RunRow.claimed_by.is_not(None))
        .order_by(*oldest_first)
    )
    for row in claimed:
        work.watch.append(RunToStart(run_id=row.id, epoch=row.epoch))
        if row.kill_requested:
            reason = row.kill_reason or row.reason
            work.kill.append(RunToKill(run_id=row.id, epoch=row.epoch, reason=reason))
    return work


def note_refused(session: Session, run_id: str, request: Claim, reason: str, message: str) -> None:
    """Store why a claim could not be answered, while nobody has claimed the run."""
    session.execute(
        update(RunRow)
        .where(
            RunRow.id == run_id,
            RunRow.epoch == request.epoch,
            RunRow.phase == "assigned",
            RunRow.claimed_by.is_(None),
        )
        .values(refused={"reason": reason, "message": clean(message, 4000)})
        .execution_options(synchronize_session=False)
    )


def _unsettled() -> ColumnElement[bool]:
    live = RunRow.phase.not_in(sorted(ENDED))
    return live | (RunRow.claimed_by.is_not(None) & RunRow.quarantined)


def claim(
    session: Session,
    run_id: str,
    request: Claim,
    *,
    cluster: str | None = None,
    key_sha256: str,
    key_prefix: str,
) -> RunRow:
    """Take a run for the agent, once per epoch, and store the run's key beside.

    `cluster` is the agent key's cluster, where it has one. Raises NotFound; StaleEpoch when the
    run's owner has moved on; AlreadyClaimed when a claim came first (a repetition of the same
    agent's claim too: the first answer's key is lost, so the run counts as claimed but absent);
    AgentSuperseded when the run's cluster is served by another agent, which would not look after
    what this one starts.
    """
    result = session.execute(
        update(RunRow)
        .where(
            RunRow.id == run_id,
            RunRow.epoch == request.epoch,
            RunRow.phase == "assigned",
            RunRow.claimed_by.is_(None),
            RunRow.generation == generation(session),
            *([RunRow.cluster == cluster] if cluster else []),
        )
        .values(claimed_by=request.agent_id, claimed_at=database_now())
        .execution_options(synchronize_session=False)
    )
    assert isinstance(result, CursorResult)
    row = session.get(RunRow, run_id, populate_existing=True)
    if row is None or (cluster and row.cluster != cluster):
        raise NotFound("run", run_id)
    if result.rowcount != 1:
        if row.epoch != request.epoch:
            raise StaleEpoch(run_id, request.epoch, f"the run's epoch is {row.epoch}")
        if row.claimed_by is not None:
            raise AlreadyClaimed(run_id, f"claimed by {row.claimed_by}")
        if row.generation != generation(session):
            raise AlreadyClaimed(run_id, "a restored backup knows of it: it may have run since")
        raise AlreadyClaimed(run_id, f"its phase is {row.phase}")
    serving = session.scalar(select(ClusterRow.agent_id).where(ClusterRow.name == row.cluster))
    if serving is not None and serving != request.agent_id:
        raise AgentSuperseded(row.cluster, request.agent_id)
    if row.owner_type == "job":
        newest = session.scalar(
            select(JobRow.epoch).where(JobRow.id == row.owner_id).with_for_update()
        )
        if newest != row.epoch:
            raise StaleEpoch(run_id, row.epoch, f"the job is at epoch {newest}")
    session.add(
        KeyRow(
            id=new_id("key"),
            name=f"run {run_id}",
            sha256=key_sha256,
            prefix=key_prefix,
            access="run",
            project=row.project,
            run_id=run_id,
            epoch=row.epoch,
        )
    )
    append_event(
        session,
        type="run.claimed",
        subject=f"{row.owner_type}/{row.owner_name}",
        subject_id=row.owner_id,
        project=row.project,
        message=f"run {row.epoch} claimed by the agent of {row.cluster}",
        actor=request.agent_id,
        data={"run_id": row.id, "epoch": row.epoch},
    )
    return row
