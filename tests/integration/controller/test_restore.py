"""A backup of yesterday is put back while today's machines run on: nothing of today is killed or
run twice, and what yesterday believed alive is found out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from quarterdeck.specs.beats import OutputAsset
from quarterdeck.specs.protocol import (
    AgentBeat,
    NodeReport,
    RunSighting,
    Stranger,
    SupervisorReport,
)
from quarterdeck.store import backups
from quarterdeck.store.agents import record_agent_beat
from quarterdeck.store.errors import AlreadyClaimed
from quarterdeck.store.key_queries import find_key
from quarterdeck.store.orphans import orphans
from quarterdeck.store.settings import EPOCHS_A_GENERATION
from quarterdeck.store.tables import KeyRow, OrphanRow, RunRow

from .conftest import NOW

JUMP = EPOCHS_A_GENERATION + 1


pytestmark = pytest.mark.usefixtures("postgres_tools")


class Days:
    """Takes the backup and puts it back, and speaks for the agent in between."""

    def __init__(self, platform: Any, url: str, folder: Path) -> None:
        self.platform, self.url, self.file = platform, url, folder / "yesterday.backup"

    def back_up(self) -> None:
        backups.back_up(self.url, self.file)

    def restore(self) -> int:
        self.platform.database.close()
        raised, kept = backups.restore(self.url, self.file)
        assert kept is not None and kept.stat().st_mode & 0o077 == 0
        return raised

    def beat(
        self, alive: Sequence[RunRow], generation: int | None, nameless: Sequence[RunRow] = ()
    ) -> None:
        """One beat of an agent on whose machines exactly `alive` (and `nameless`) live."""
        agent = self.platform.agent
        watched = {(item.run_id, item.epoch) for item in agent.work().watch}
        living = {(run.id, run.epoch): run for run in (*alive, *nameless)}
        unknown = [run for key, run in living.items() if key not in watched]
        beat = AgentBeat(
            agent_id=agent.agent_id,
            started_at=NOW,
            nodes=[
                NodeReport(node_id=node, host=node, address=node, slots=slots, cpus=slots)
                for node, slots in agent.nodes.items()
            ],
            runs=[
                RunSighting(
                    run_id=run_id,
                    epoch=epoch,
                    state="alive" if (run_id, epoch) in living else "dead",
                )
                for run_id, epoch in watched
            ],
            generation=generation,
            strangers=[
                Stranger(
                    run_id=run.id,
                    epoch=run.epoch,
                    report=None if run in nameless else report_of(run),
                )
                for run in unknown
            ]
            if generation is not None
            else [],
        )
        with self.platform.database.write() as session:
            record_agent_beat(session, agent.cluster, beat)

    def settle(self) -> None:
        for _ in range(6):
            self.platform.controller.tick()

    def run(self, run_id: str) -> RunRow | None:
        with self.platform.database.read() as session:
            return session.get(RunRow, run_id)

    def left(self) -> list[OrphanRow]:
        with self.platform.database.read() as session:
            return list(orphans(session))


def report_of(run: RunRow) -> SupervisorReport:
    """What the supervisor of a run says of itself, from the order that it once got."""
    return SupervisorReport(
        run_id=run.id, epoch=run.epoch, attempt=run.attempt, owner_type=run.owner_type,
        owner_id=run.owner_id, owner_name=run.owner_name, project=run.project, kind=run.kind,
        spec=run.spec, cluster=run.cluster, placements=run.placements, inputs=run.inputs,
        key_sha256=hashlib.sha256(run.id.encode()).hexdigest(), started_at=run.claimed_at,
    )  # fmt: skip


@pytest.fixture
def days(platform: Any, database_url: str, tmp_path: Path) -> Days:
    platform.agent.nodes = {"n1": 8, "n2": 8}
    platform.agent.beat()
    return Days(platform, database_url, tmp_path)


def test_what_started_since_goes_on_and_is_not_doubled(days: Days, make: Any) -> None:
    platform = days.platform
    old, old_run = platform.started(make["command"]("old"))
    offered = platform.submit(make["command"]("offered"))
    platform.controller.tick()
    waits = platform.submit(make["command"]("waits", after=["job/old"]))
    parked = platform.submit(make["command"]("parked"))
    platform.wish(parked, "suspend")
    platform.controller.tick()
    days.back_up()

    # Today: the offered run is claimed, the others begin, and a new job comes.
    offered_run = platform.agent.claim(platform.run_of(offered).id, 1)
    platform.agent.say(old_run, "succeeded")
    platform.controller.tick()
    waits_run = platform.bring_up(waits)
    platform.wish(parked, "run")
    parked_run = platform.bring_up(parked)
    _, new_run = platform.started(make["command"]("new"))
    today = [offered_run, waits_run, parked_run, new_run]

    assert days.restore() == 1
    assert days.run(new_run.id) is None
    days.beat(today, generation=None)  # an agent that has not heard of the restore
    days.beat([], generation=0)  # its list to watch was of the day before
    days.settle()
    work = platform.agent.work()
    assert (work.generation, work.start, work.kill) == (1, [], [])
    assert platform.job(offered).phase == "starting", "it may be claimed: nobody touches it"
    with pytest.raises(AlreadyClaimed, match="restored backup"):
        platform.agent.claim(offered_run.id, 1)
    assert platform.job(waits).phase != "starting" and platform.runs(waits) == []

    days.beat(today, generation=1)
    days.settle()
    assert days.left() == []
    assert platform.agent.work().kill == []
    for run in today:
        found = days.run(run.id)
        assert found is not None and found.claimed_by and found.phase == "starting", run.owner_name
        assert len(platform.runs(run.owner_id)) == 1
        assert platform.agent.say(run, "running").order == "continue"
        with platform.database.read() as session:
            key = find_key(session, report_of(run).key_sha256)
        assert key is not None and (key.run_id, key.epoch, key.access) == (run.id, 1, "run")
    days.settle()
    assert {platform.job(run.owner_id).phase for run in today} == {"running"}
    assert platform.job(new_run.owner_id).spec["command"] == "true"
    # How yesterday's run ended is lost: a program of a user's is not run again unasked.
    assert days.run(old_run.id).reason == "RestoredBackup"  # type: ignore[union-attr]
    job = platform.job(old)
    assert (job.phase, job.reason, job.desired) == ("suspended", "RestoredBackup", "suspend")
    assert "quarterdeck resume" in job.message and job.restarts_used == 0
    platform.wish(old, "run")
    days.settle()
    assert [run.epoch for run in platform.runs(old)] == [1, JUMP]
    again = platform.agent.claim(platform.runs(old)[1].id, JUMP)
    assert again.attempt == 2
    for run in today:
        assert platform.agent.say(run, "succeeded").order == "continue"
    days.settle()
    assert {platform.job(run.owner_id).phase for run in today} == {"succeeded"}


def test_a_newer_attempt_replaces_the_one_that_the_backup_believes_alive(
    days: Days, make: Any
) -> None:
    platform = days.platform
    job_id, first = platform.started(make["command"]("j", restart_safe=True))
    days.back_up()
    platform.agent.say(first, "failed", failure=make["failure"]("node"))
    platform.controller.tick()
    second = platform.bring_up(job_id)
    assert second.epoch == 2
    days.restore()
    # The newer one is heard of before the agent has looked for the older one.
    days.beat([second, first], generation=1)
    days.settle()
    job = platform.job(job_id)
    assert (job.phase, job.epoch, job.run_id) == ("starting", 2, second.id)
    assert days.run(first.id).phase == "lost"  # type: ignore[union-attr]
    assert platform.agent.say(second, "running").order == "continue"
    days.settle()
    assert platform.job(job_id).phase == "running" and len(platform.runs(job_id)) == 2


def test_training_goes_on_from_its_checkpoint_in_new_epochs(days: Days, make: Any) -> None:
    platform = days.platform
    job_id, run = platform.started(make["command"]("t", restart_safe=True))
    platform.agent.say(run, "running", step=5, checkpoints=[make["manifest"](run, 5)])
    days.back_up()
    days.restore()
    days.beat([], generation=1)
    days.settle()
    runs = platform.runs(job_id)
    assert [(item.epoch, item.phase) for item in runs] == [(1, "lost"), (JUMP, "assigned")]
    assert runs[1].resumed_from_step == 5
    job = platform.job(job_id)
    assert (job.phase, job.restarts_used) == ("starting", 0)
    # A crash after the restore is a crash: nothing is forgiven for ever.
    last = platform.agent.claim(runs[1].id, JUMP)
    platform.agent.say(last, "failed", failure=make["failure"]("user_code"))
    days.settle()
    assert platform.job(job_id).restarts_used == 1


def test_what_lives_on_is_heard_and_its_later_death_is_a_death(days: Days, make: Any) -> None:
    platform = days.platform
    job_id, run = platform.started(make["command"]("j"))
    days.back_up()
    platform.agent.say(run, "running", step=7)
    days.restore()
    days.beat([run], generation=1)
    assert platform.agent.say(run, "running", step=8).order == "continue"
    days.settle()
    assert platform.job(job_id).phase == "running"
    assert "telemetry_gap" in platform.event_types(job_id)
    days.beat([], generation=1)
    days.settle()
    assert days.run(run.id).reason == "Lost"  # type: ignore[union-attr]
    assert len(platform.runs(job_id)) == 2


def test_a_supervisor_that_does_not_say_whose_it_is_holds_what_the_backup_knew(
    days: Days, make: Any
) -> None:
    platform = days.platform
    waits = platform.submit(make["command"]("waits"))
    days.back_up()
    mystery = platform.bring_up(waits)
    days.restore()
    days.beat([], generation=1, nameless=[mystery])
    days.settle()
    job = platform.job(waits)
    assert (job.phase, job.reason) == ("queued", "RestoredBackup")
    assert mystery.id in job.message
    fresh = platform.submit(make["command"]("fresh"))
    days.settle()
    assert platform.job(fresh).phase == "starting", "it cannot be anybody's older work"
    days.beat([], generation=1)
    days.settle()
    assert platform.job(waits).phase == "starting" and days.left() == []


def test_orphans_that_nobody_can_take_stay_visible(days: Days, make: Any) -> None:
    platform = days.platform
    done, run = platform.started(make["command"]("done"))
    platform.agent.say(run, "succeeded")
    days.settle()
    days.back_up()
    days.restore()
    other = report_of(run).model_copy(update={"run_id": "run-ghost", "epoch": 9})
    stranger = Stranger(run_id="run-ghost", epoch=9, report=other)
    beat = AgentBeat(agent_id="agent-1", started_at=NOW, generation=1, strangers=[stranger])
    with platform.database.write() as session:
        record_agent_beat(session, "a", beat)
    days.settle()
    assert platform.job(done).phase == "succeeded"
    assert [(row.run_id, row.detail) for row in days.left()] == [
        ("run-ghost", "job/done has succeeded already")
    ]
    assert days.run("run-ghost") is None


def test_replicas_are_taken_back(days: Days, make: Any) -> None:
    platform = days.platform
    _, maker = platform.started({"kind": "dataset", "name": "m", "uri": "file:///m"})
    output = OutputAsset(kind="model", name="m", digest="x", uri="file:///m")
    platform.agent.say(maker, "succeeded", outputs=[output])
    service = platform.deploy({"kind": "service", "name": "chat", "model": "m", "replicas": 1})
    days.back_up()
    days.settle()
    (replica,) = platform.agent.claim_all()
    days.restore()
    days.settle()
    assert platform.runs(service) == []
    days.beat([replica], generation=1)
    days.settle()
    (found,) = platform.runs(service)
    assert (found.id, found.revision, found.phase) == (replica.id, 1, "starting")
    assert platform.agent.say(replica, "ready", endpoint={"url": "http://x", "probed": True})
    days.settle()
    assert platform.service(service).phase == "ready" and len(platform.runs(service)) == 1


def test_readers_of_events_miss_nothing_after_a_restore(days: Days, make: Any) -> None:
    platform = days.platform
    days.back_up()
    job_id = platform.submit(make["command"]("j"))
    platform.controller.tick()
    cursor = platform.events(job_id)[-1].id
    days.restore()
    platform.agent.beat()
    again = platform.submit(make["command"]("again"))
    platform.wish(again, "cancel")
    days.settle()
    assert all(event.id > cursor for event in platform.events(again))
    assert platform.event_types(again), "and they are read in commit order"
    with platform.database.read() as session:
        assert session.scalars(select(KeyRow)).all() == []
