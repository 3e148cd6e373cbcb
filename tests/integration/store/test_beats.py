"""Beats are taken in exactly once, whole, and only from the present epoch."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select, update

from quarterdeck.specs.beats import (
    CheckpointManifest,
    Failure,
    FileEntry,
    LogChunk,
    MetricRow,
    OutputAsset,
    RunBeat,
    RunEvent,
)
from quarterdeck.store.beats import record_beat
from quarterdeck.store.errors import NotFound, StaleEpoch
from quarterdeck.store.ids import new_id, next_ordinal
from quarterdeck.store.sessions import Database
from quarterdeck.store.tables import (
    AssetInputRow,
    AssetVersionRow,
    CheckpointRow,
    EventRow,
    JobRow,
    LogChunkRow,
    RunRow,
    StepMetricsRow,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def new_run(database: Database, epoch: int = 1) -> RunRow:
    with database.write() as session:
        job = JobRow(
            id=new_id("job"), name="j", project="default", kind="pretrain", spec={},
            ordinal=next_ordinal(), phase="running", epoch=epoch,
        )  # fmt: skip
        session.add(job)
        session.flush()
        run = RunRow(
            id=new_id("run"), owner_type="job", owner_id=job.id, owner_name="j",
            project="default", kind="pretrain", epoch=epoch, cluster="a", spec={}, placements=[],
            phase="running", claimed_by="agent-1",
            inputs={"datasets": [{"kind": "dataset", "name": "d", "version": 3}]},
        )  # fmt: skip
        session.add(run)
    return run


def full_beat(seq: int, epoch: int = 1) -> RunBeat:
    return RunBeat(
        epoch=epoch,
        seq=seq,
        sent_at=NOW,
        reported_phase="running",
        step=seq * 10,
        steps_total=100,
        metrics=[MetricRow(step=seq * 10, values={"loss": 9.0 - seq}, at=NOW)],
        logs=[LogChunk(rank=0, seq=seq, lines=[(float(seq), f"line {seq}")])],
        checkpoints=[
            CheckpointManifest(
                step=seq * 10, epoch=epoch, uri="file:///c",
                files=[FileEntry(path="w", size=7, sha256="0")],
            )
        ],
        outputs=[OutputAsset(kind="model", name="m", digest="x", uri="file:///m")],
        results={f"r{seq}": seq},
        events=[RunEvent(type="run.note", message=f"note {seq}", at=NOW)],
    )  # fmt: skip


def send(database: Database, run: RunRow, beat: RunBeat) -> Any:
    with database.write() as session:
        return record_beat(session, run.id, beat)


def contents(database: Database, run: RunRow) -> dict[str, Any]:
    """Everything that beats leave behind, without times and ids."""
    with database.read() as session:
        job, row = session.get_one(JobRow, run.owner_id), session.get_one(RunRow, run.id)
        chunks = session.scalars(select(LogChunkRow).where(LogChunkRow.run_id == run.id))
        metrics = session.scalars(select(StepMetricsRow).where(StepMetricsRow.job_id == job.id))
        saved = session.scalars(select(CheckpointRow).where(CheckpointRow.job_id == job.id))
        made = session.scalars(select(AssetVersionRow).where(AssetVersionRow.job_id == job.id))
        told = session.scalars(
            select(EventRow).where(EventRow.actor == f"run/{run.id}").order_by(EventRow.id)
        )
        return {
            "job": (job.step, job.loss, job.results, job.version),
            "run": (row.beat_seq, row.step, row.reported_phase),
            "logs": sorted((c.rank, c.seq, str(c.lines)) for c in chunks),
            "metrics": sorted((m.step, m.epoch, str(m.values)) for m in metrics),
            "checkpoints": sorted((c.epoch, c.step, c.size) for c in saved),
            "models": sorted((m.name, m.version) for m in made),
            "events": [(e.type, e.message) for e in told],
        }


def test_one_beat_leaves_everything(database: Database) -> None:
    run = new_run(database)
    reply = send(database, run, full_beat(1))
    assert (reply.order, reply.acked_seq) == ("continue", 1)
    left = contents(database, run)
    assert left["job"] == (10, 8.0, {"r1": 1}, 1), "beats never raise the job's version"
    assert left["models"] == [("m", 1)] and left["checkpoints"] == [(1, 10, 7)]
    with database.read() as session:
        version = session.scalars(select(AssetVersionRow)).one()
        (parent,) = session.scalars(select(AssetInputRow))
        assert (parent.asset_id, parent.name, parent.version) == (version.id, "d", 3)


@pytest.mark.parametrize("seed", range(3))
def test_any_replay_leaves_what_one_delivery_leaves(database: Database, seed: int) -> None:
    beats = [full_beat(seq) for seq in range(1, 6)]
    once, replayed = new_run(database), new_run(database)
    for beat in beats:
        send(database, once, beat)
    with database.write() as session:
        # The project numbers versions: let both start alike.
        for row in session.scalars(select(AssetVersionRow)):
            row.name = "other"
    chance = random.Random(seed)
    delivered = 0
    while delivered < len(beats):
        # The supervisor sends in order and repeats whatever it got no answer for.
        start = chance.randint(0, delivered)
        for beat in beats[start : delivered + 1]:
            assert send(database, replayed, beat).acked_seq == max(delivered, beat.seq)
            delivered = max(delivered, beat.seq)
    expected, found = contents(database, once), contents(database, replayed)
    expected["models"] = [("m", version) for _, version in expected["models"]]
    assert found == expected


def test_a_beat_that_fails_leaves_nothing(database: Database) -> None:
    run = new_run(database)
    before = contents(database, run)
    with pytest.raises(RuntimeError, match="power"), database.write() as session:
        record_beat(session, run.id, full_beat(1))
        raise RuntimeError("power cut")
    assert contents(database, run) == before
    assert send(database, run, full_beat(1)).acked_seq == 1


def fence_newer(session: Any, run: RunRow) -> None:
    session.execute(update(JobRow).where(JobRow.id == run.owner_id).values(epoch=2))


def fence_quarantined(session: Any, run: RunRow) -> None:
    session.execute(update(RunRow).where(RunRow.id == run.id).values(quarantined=True))


def fence_lost(session: Any, run: RunRow) -> None:
    session.execute(update(RunRow).where(RunRow.id == run.id).values(phase="lost"))


def fence_unclaimed(session: Any, run: RunRow) -> None:
    session.execute(update(RunRow).where(RunRow.id == run.id).values(claimed_by=None))


@pytest.mark.parametrize("fence", [fence_newer, fence_quarantined, fence_lost, fence_unclaimed])
def test_a_fenced_run_publishes_nothing(
    database: Database, fence: Callable[[Any, RunRow], None]
) -> None:
    run = new_run(database)
    with database.write() as session:
        fence(session, run)
    before = contents(database, run)
    with pytest.raises(StaleEpoch):
        send(database, run, full_beat(1))
    assert contents(database, run) == before


def test_a_beat_of_another_epoch_or_run_is_refused(database: Database) -> None:
    run = new_run(database)
    with pytest.raises(StaleEpoch):
        send(database, run, full_beat(1, epoch=2))
    run.id = "run-unknown"
    with pytest.raises(NotFound):
        send(database, run, full_beat(1))


def test_a_restored_backup_goes_on_with_a_gap_that_is_told(database: Database) -> None:
    run = new_run(database)
    for seq in (1, 2):
        send(database, run, full_beat(seq))
    # The backup knew beats 1 and 2; the supervisor has had 3 to 6 acknowledged since.
    assert send(database, run, full_beat(7)).acked_seq == 7
    assert send(database, run, full_beat(7)).acked_seq == 7
    told = [text for type_, text in contents(database, run)["events"] if type_ == "telemetry_gap"]
    assert told == ["run 1: 4 beats never arrived"]


def test_the_first_failure_stays(database: Database) -> None:
    run = new_run(database)
    for seq, (rank, blame) in enumerate([(3, "memory"), (0, "network")], start=1):
        beat = RunBeat(
            epoch=1, seq=seq, sent_at=NOW, reported_phase="failed",
            failure=Failure(rank=rank, blame=blame, message="m"),
        )  # fmt: skip
        send(database, run, beat)
    with database.read() as session:
        failure = session.get_one(RunRow, run.id).failure
    assert failure is not None and (failure["rank"], failure["blame"]) == (3, "memory")


def test_an_end_is_not_taken_back(database: Database) -> None:
    run = new_run(database)
    for seq, phase in enumerate(("succeeded", "running"), start=1):
        send(database, run, RunBeat(epoch=1, seq=seq, sent_at=NOW, reported_phase=phase))
    assert contents(database, run)["run"][2] == "succeeded"


def test_a_checkpoint_of_another_epoch_is_not_registered(database: Database) -> None:
    run = new_run(database, epoch=2)
    beat = full_beat(1, epoch=2)
    beat.checkpoints[0].epoch = 1
    send(database, run, beat)
    assert contents(database, run)["checkpoints"] == []


def test_programs_print_anything(database: Database) -> None:
    run = new_run(database)
    nasty = "nul \x00 surrogate \ud800 emoji 🚢"
    beat = RunBeat(
        epoch=1, seq=1, sent_at=NOW, reported_phase="running", message=nasty,
        metrics=[MetricRow(step=1, values={"loss": math.nan, "grad": math.inf}, at=NOW)],
        logs=[LogChunk(rank=0, seq=1, lines=[(1.0, nasty)])],
        events=[RunEvent(type="x", message=nasty, at=NOW)],
        failure=Failure(rank=0, blame="unknown", message=nasty, traceback=nasty),
    )  # fmt: skip
    send(database, run, beat)
    with database.read() as session:
        values = session.scalars(select(StepMetricsRow.values)).one()
        line = session.scalars(select(LogChunkRow.lines)).one()[0][1]
    assert math.isnan(float(values["loss"])) and math.isinf(float(values["grad"]))
    assert line.startswith("nul \ufffd surrogate") and line.endswith("🚢")


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(order=st.permutations([1, 2, 3]), epoch=st.integers(1, 3))
def test_log_chunks_and_metrics_are_never_doubled(
    database: Database, order: list[int], epoch: int
) -> None:
    """The same chunks again under other beat numbers, as after a restored backup."""
    run = new_run(database, epoch=epoch)
    for seq, content in enumerate([*order, *order], start=1):
        beat = full_beat(content, epoch=epoch)
        beat.seq = seq
        send(database, run, beat)
    left = contents(database, run)
    assert [item[1] for item in left["logs"]] == [1, 2, 3]
    assert [item[0] for item in left["metrics"]] == [10, 20, 30]
    assert [item[1] for item in left["checkpoints"]] == [10, 20, 30]
    assert len(left["models"]) == 1
    with database.read() as session:
        count = session.scalar(
            select(func.count())
            .select_from(EventRow)
            .where(EventRow.subject_id == run.owner_id, EventRow.type == "checkpoint.registered")
        )
    assert count == 3
