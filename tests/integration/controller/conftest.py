"""A platform in one process: real database, real controller, and an agent that plays the
machines by calling what the api calls."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from quarterdeck.controller.loop import Controller
from quarterdeck.specs.beats import (
    BeatReply,
    CheckpointManifest,
    Endpoint,
    Failure,
    FileEntry,
    MetricRow,
    OutputAsset,
    RunBeat,
)
from quarterdeck.specs.kinds import DOCUMENT
from quarterdeck.specs.protocol import AgentBeat, AgentWork, Claim, NodeReport, RunSighting
from quarterdeck.specs.rollout import same_replicas
from quarterdeck.store.agents import claim, record_agent_beat, work_for
from quarterdeck.store.beats import record_beat
from quarterdeck.store.ids import new_id, next_ordinal
from quarterdeck.store.outbox import events_after
from quarterdeck.store.service_queries import change_live, revise_service
from quarterdeck.store.sessions import Database
from quarterdeck.store.tables import (
    ClusterRow,
    EventRow,
    JobRow,
    NodeRow,
    RevisionRow,
    RunRow,
    ServiceRow,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def command(name: str, **fields: Any) -> dict[str, Any]:
    return {"kind": "command", "name": name, "command": "true", **fields}


@dataclass
class Agent:
    """Plays one cluster: beats, claims, and speaks for its runs."""

    database: Database
    cluster: str = "a"
    nodes: dict[str, int] = field(default_factory=lambda: {"n1": 4, "n2": 4})
    accelerators: dict[str, str] = field(default_factory=dict)
    """By node; others are CPU machines."""
    agent_id: str = "agent-1"
    project: str | None = None
    seqs: dict[str, int] = field(default_factory=dict)

    def beat(self, **sightings: str) -> None:
        """One beat; `sightings` maps a run's id (dashes as underscores) to its state."""
        with self.database.read() as session:
            epochs = {run.id: run.epoch for run in session.scalars(select(RunRow))}
        beat = AgentBeat(
            agent_id=self.agent_id,
            started_at=NOW,
            project=self.project,
            nodes=[
                NodeReport(
                    node_id=node,
                    host=node,
                    address=node,
                    slots=slots,
                    cpus=slots,
                    accelerator=self.accelerators.get(node, "cpu"),
                )
                for node, slots in self.nodes.items()
            ],
            runs=[
                RunSighting(run_id=run, epoch=epochs[run], state=state, detail="seen")
                for key, state in sightings.items()
                for run in [key.replace("_", "-")]
            ],
        )
        with self.database.write() as session:
            record_agent_beat(session, self.cluster, beat)

    def saw(self, run: RunRow, state: str) -> None:
        self.beat(**{run.id.replace("-", "_"): state})

    def work(self) -> AgentWork:
        with self.database.read() as session:
            return work_for(session, self.cluster)

    def claim(self, run_id: str, epoch: int) -> RunRow:
        digest = hashlib.sha256(new_id("secret").encode()).hexdigest()
        with self.database.write() as session:
            return claim(
                session,
                run_id,
                Claim(epoch=epoch, agent_id=self.agent_id),
                key_sha256=digest,
                key_prefix="qd_test",
            )

    def claim_all(self) -> list[RunRow]:
        return [self.claim(item.run_id, item.epoch) for item in self.work().start]

    def say(self, run: RunRow, phase: str, **fields: Any) -> BeatReply:
        """The run's next beat."""
        seq = self.seqs.get(run.id, 0) + 1
        self.seqs[run.id] = seq
        beat = RunBeat(epoch=run.epoch, seq=seq, sent_at=NOW, reported_phase=phase, **fields)
        with self.database.write() as session:
            return record_beat(session, run.id, beat)


@dataclass
class Platform:
    database: Database
    agent: Agent
    controller: Controller

    def submit(self, document: dict[str, Any]) -> str:
        spec = DOCUMENT.validate_python(document)
        row = JobRow(
            id=new_id("job"),
            name=spec.name,
            project=spec.project,
            kind=spec.kind,
            spec=spec.model_dump(mode="json"),
            priority=spec.priority,
            ordinal=next_ordinal(),
            ranks=spec.rank_count,
        )
        with self.database.write() as session:
            session.add(row)
        return row.id

    def deploy(self, document: dict[str, Any]) -> str:
        spec = DOCUMENT.validate_python(document)
        row = ServiceRow(
            id=new_id("svc"),
            name=spec.name,
            project=spec.project,
            spec=spec.model_dump(mode="json"),
            desired_replicas=spec.replicas,
            ordinal=next_ordinal(),
        )
        with self.database.write() as session:
            session.add(row)
            session.flush()
            session.add(RevisionRow(service_id=row.id, revision=1, spec=row.spec))
        return row.id

    def revise(self, service_id: str, **fields: Any) -> int:
        """Another spec of a service, as an apply of it writes; its revision."""
        with self.database.write() as session:
            row = session.get_one(ServiceRow, service_id)
            spec = DOCUMENT.validate_python({**row.spec, **fields}).model_dump(mode="json")
            alike = same_replicas(row.spec, spec)
            (change_live if alike else revise_service)(
                session, row, spec=spec, replicas=spec["replicas"], priority=0, actor="ada"
            )
            return row.revision

    def wish(self, job_id: str, desired: str) -> None:
        with self.database.write() as session:
            session.execute(
                update(JobRow)
                .where(JobRow.id == job_id)
                .values(desired=desired, version=JobRow.version + 1)
            )

    def job(self, job_id: str) -> JobRow:
        with self.database.read() as session:
            return session.get_one(JobRow, job_id)

    def service(self, service_id: str) -> ServiceRow:
        with self.database.read() as session:
            return session.get_one(ServiceRow, service_id)

    def runs(self, owner_id: str) -> list[RunRow]:
        with self.database.read() as session:
            return list(
                session.scalars(
                    select(RunRow).where(RunRow.owner_id == owner_id).order_by(RunRow.epoch)
                )
            )

    def run_of(self, owner_id: str) -> RunRow:
        return self.runs(owner_id)[-1]

    def events(self, owner_id: str) -> list[EventRow]:
        with self.database.read() as session:
            return list(events_after(session, 0, limit=10_000, subject_id=owner_id))

    def event_types(self, owner_id: str) -> list[str]:
        return [event.type for event in self.events(owner_id)]

    def started(self, document: dict[str, Any]) -> tuple[str, RunRow]:
        """Submit a job and bring its first run to `running`."""
        job_id = self.submit(document)
        return job_id, self.bring_up(job_id)

    def bring_up(self, job_id: str) -> RunRow:
        """Place, claim and start the job's next run."""
        self.controller.tick()
        run = self.run_of(job_id)
        self.agent.claim(run.id, run.epoch)
        self.agent.say(run, "running", step=0)
        self.controller.tick()
        return self.run_of(job_id)

    def age(self, table: Any, row_id: str, column: str, seconds: float) -> None:
        """Move a stored time into the past: the tests' way to let time pass."""
        with self.database.write() as session:
            row = session.get_one(table, row_id)
            value = getattr(row, column)
            setattr(row, column, value - timedelta(seconds=seconds))

    def silence(self, run: RunRow, seconds: float = 1000.0) -> None:
        """The run has not spoken for long, while its cluster's agent has."""
        self.age(RunRow, run.id, "last_beat_at", seconds)
        self.hear_for(seconds * 2)

    def hear_for(self, seconds: float) -> None:
        self.agent.beat()
        with self.database.write() as session:
            for cluster in session.scalars(select(ClusterRow)):
                assert cluster.heard_since is not None
                cluster.heard_since -= timedelta(seconds=seconds)


@pytest.fixture
def platform(database: Database) -> Platform:
    """Two machines of four slots, one agent that has just spoken, one controller."""
    platform = Platform(database, Agent(database), Controller(database))
    platform.agent.beat()
    return platform


def manifest(run: RunRow, step: int) -> CheckpointManifest:
    return CheckpointManifest(
        step=step,
        epoch=run.epoch,
        uri=f"file:///artifacts/checkpoints/{run.owner_id}/{run.epoch}/{step}",
        files=[FileEntry(path="model.safetensors", size=10, sha256="0" * 64)],
    )


def failure(blame: str, message: str = "boom", rank: int | None = 1) -> Failure:
    return Failure(rank=rank, blame=blame, message=message, traceback="Traceback …")


@pytest.fixture
def make() -> dict[str, Callable[..., Any]]:
    """Builders of messages, by name."""
    return {
        "command": command,
        "manifest": manifest,
        "failure": failure,
        "endpoint": Endpoint,
        "metric": MetricRow,
        "output": OutputAsset,
        "node": NodeRow,
    }
