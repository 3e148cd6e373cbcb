"""A job's life, from submission to its end, driven by a simulated agent on both databases."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from quarterdeck.specs.beats import OutputAsset
from quarterdeck.store.errors import AlreadyClaimed, StaleEpoch
from quarterdeck.store.tables import JobRow, KeyRow, NodeRow, RunRow

PRETRAIN = {
    "kind": "pretrain",
    "name": "tiny",
    "architecture": {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "vocab_size": 512,
        "max_position_embeddings": 128,
    },
    "datasets": "file:///data",
    "parallelism": {"data": 2, "tensor": 2, "pipeline": 2},
    "training": {"steps": 100, "sequence_length": 64},
}


def test_a_whole_life(platform: Any, make: Any) -> None:
    job_id = platform.submit(make["command"]("hello", ranks=6))
    platform.controller.tick()
    job, run = platform.job(job_id), platform.run_of(job_id)
    assert (job.phase, job.reason, run.phase, run.epoch) == ("starting", "Placed", "assigned", 1)
    assert [item.run_id for item in platform.agent.work().start] == [run.id]

    platform.agent.claim(run.id, 1)
    assert platform.agent.work().start == []
    assert [item.run_id for item in platform.agent.work().watch] == [run.id]
    with pytest.raises(AlreadyClaimed):
        platform.agent.claim(run.id, 1)

    platform.agent.say(run, "starting")
    platform.controller.tick()
    assert platform.run_of(job_id).phase == "starting"
    platform.agent.say(run, "running", step=3, steps_total=10)
    platform.controller.tick()
    job = platform.job(job_id)
    assert (job.phase, job.step, job.steps_total) == ("running", 3, 10)
    assert job.started_at is not None

    platform.agent.say(run, "succeeded", step=10, results={"answer": 42})
    platform.controller.tick()
    job = platform.job(job_id)
    assert (job.phase, job.reason, job.results) == ("succeeded", "Succeeded", {"answer": 42})
    assert job.ended_at is not None
    moves = [e.data["to"] for e in platform.events(job_id) if e.type == "job.phase"]
    assert moves == ["queued", "starting", "running", "succeeded"]
    assert platform.agent.work().watch == []
    with platform.database.read() as session:
        key = session.scalars(select(KeyRow).where(KeyRow.run_id == run.id)).one()
    assert key.expires_at is not None, "the run's key ends after a grace"


def test_a_chain_waits_and_hands_over_versions(platform: Any, make: Any) -> None:
    tokenizer = platform.submit(
        {"kind": "tokenizer", "name": "bpe", "dataset": "files", "vocabulary": 300}
    )
    data = platform.submit(
        {"kind": "data", "name": "tokens", "datasets": "files#train", "tokenizer": "job/bpe"}
    )
    dataset = platform.submit({"kind": "dataset", "name": "files", "uri": "file:///src"})
    platform.controller.tick()
    assert platform.job(tokenizer).reason == "WaitingForJob"
    assert "job/files" in platform.job(tokenizer).message
    assert platform.job(data).reason == "WaitingForJob"

    run = platform.bring_up(dataset)
    output = OutputAsset(kind="dataset", name="files", digest="d1", uri="file:///src")
    platform.agent.say(run, "succeeded", outputs=[output])
    platform.controller.tick()
    assert platform.job(tokenizer).phase == "starting"
    run = platform.bring_up(tokenizer)
    assert run.inputs["dataset"][0]["digest"] == "d1"
    output = OutputAsset(kind="tokenizer", name="bpe", digest="t1", uri="file:///bpe")
    platform.agent.say(run, "succeeded", outputs=[output])
    platform.controller.tick()

    run = platform.bring_up(data)
    assert run.inputs["tokenizer"][0]["name"] == "bpe"
    assert (run.inputs["datasets"][0]["version"], run.inputs["datasets"][0]["split"]) == (
        1,
        "train",
    )


def test_a_failed_dependency_fails_the_dependent(platform: Any, make: Any) -> None:
    first, run = platform.started(make["command"]("first", max_restarts=0))
    second = platform.submit(make["command"]("second", after=["job/first"]))
    third = platform.submit(make["command"]("third", after=["job/nobody"]))
    platform.controller.tick()
    assert platform.job(second).phase == "waiting"
    assert (platform.job(third).phase, platform.job(third).reason) == ("failed", "DependencyFailed")
    platform.agent.say(run, "failed", failure=make["failure"]("user_code"))
    platform.controller.tick()
    platform.controller.tick()
    assert platform.job(first).phase == "failed"
    assert (platform.job(second).phase, platform.job(second).reason) == (
        "failed",
        "DependencyFailed",
    )
    assert "job/first" in platform.job(second).message


def test_the_first_failure_is_reported_and_restarts_are_counted(platform: Any, make: Any) -> None:
    job_id, run = platform.started(make["command"]("flaky", max_restarts=1))
    first = make["failure"]("user_code", "ValueError: first")
    platform.agent.say(run, "running", failure=first)
    platform.agent.say(run, "failed", failure=make["failure"]("network", "second", rank=0))
    platform.controller.runs.tick()
    job = platform.job(job_id)
    assert (job.phase, job.reason, job.restarts_used) == ("queued", "Restarting", 1)
    assert job.failure is not None and job.failure["message"] == "ValueError: first"
    with pytest.raises(StaleEpoch):
        platform.controller.tick()
        platform.agent.say(run, "running")

    run = platform.run_of(job_id)
    assert run.epoch == 2
    platform.agent.claim(run.id, 2)
    platform.agent.say(run, "failed", failure=make["failure"]("memory", "CUDA out of memory"))
    platform.controller.tick()
    job = platform.job(job_id)
    assert (job.phase, job.reason) == ("failed", "MaxRestartsReached")
    assert "CUDA out of memory" in job.message
    assert len(platform.runs(job_id)) == 2


@pytest.mark.parametrize(
    ("blame", "used"), [("node", 0), ("network", 0), ("disk", 0), ("unknown", 1), ("data", 1)]
)
def test_what_uses_up_a_restart(platform: Any, make: Any, blame: str, used: int) -> None:
    job_id, run = platform.started(make["command"]("j"))
    platform.agent.say(run, "failed", failure=make["failure"](blame))
    platform.controller.runs.tick()
    assert platform.job(job_id).phase == "queued"
    assert platform.job(job_id).restarts_used == used


def test_a_dead_run_resumes_from_the_last_registered_checkpoint(platform: Any, make: Any) -> None:
    job_id, run = platform.started(PRETRAIN)
    platform.agent.say(run, "running", step=10, checkpoints=[make["manifest"](run, 10)])
    platform.agent.say(run, "running", step=14, productive_seconds=100, held_seconds=140)
    platform.agent.saw(run, "dead")
    platform.controller.tick()
    assert platform.job(job_id).restarts_used == 1
    first, second = platform.runs(job_id)
    assert (first.phase, second.epoch, second.resumed_from_step) == ("lost", 2, 10)
    assert first.kept_seconds == pytest.approx(100 * 10 / 14)
    assert "telemetry_gap" in platform.event_types(job_id)
    with pytest.raises(StaleEpoch):
        platform.agent.say(first, "running", step=15)


def test_cancel_before_and_after_the_claim(platform: Any, make: Any) -> None:
    job_id = platform.submit(make["command"]("early"))
    platform.controller.tick()
    platform.wish(job_id, "cancel")
    platform.controller.tick()
    assert platform.job(job_id).phase == "cancelled"
    run = platform.run_of(job_id)
    assert run.phase == "cancelled" and platform.agent.work().start == []
    with pytest.raises(AlreadyClaimed):
        platform.agent.claim(run.id, 1)

    job_id, run = platform.started(make["command"]("late"))
    platform.wish(job_id, "cancel")
    platform.controller.tick()
    assert platform.job(job_id).phase == "stopping"
    assert platform.agent.say(run, "running").order == "stop"
    assert platform.agent.work().kill == []
    platform.agent.say(run, "cancelled")
    platform.controller.tick()
    assert platform.job(job_id).phase == "cancelled"


def test_a_run_that_does_not_stop_is_killed(platform: Any, make: Any) -> None:
    job_id, run = platform.started(make["command"]("deaf"))
    platform.wish(job_id, "cancel")
    platform.controller.tick()
    platform.age(RunRow, run.id, "order_deadline_at", 100)
    platform.controller.tick()
    assert [item.run_id for item in platform.agent.work().kill] == [run.id]
    platform.agent.saw(run, "dead")
    platform.controller.tick()
    assert platform.job(job_id).phase == "cancelled"


def test_suspend_saves_and_resume_continues(platform: Any, make: Any) -> None:
    job_id, run = platform.started(PRETRAIN)
    platform.wish(job_id, "suspend")
    platform.controller.tick()
    reply = platform.agent.say(run, "stopping", step=5)
    assert reply.order == "checkpoint_and_stop" and reply.deadline_seconds > 100
    platform.agent.say(run, "preempted", step=5, checkpoints=[make["manifest"](run, 5)])
    platform.controller.tick()
    assert platform.job(job_id).phase == "suspended"
    platform.controller.tick()
    assert platform.job(job_id).phase == "suspended", "it stays until somebody resumes it"
    platform.wish(job_id, "run")
    platform.controller.tick()
    run = platform.run_of(job_id)
    assert (run.epoch, run.resumed_from_step) == (2, 5)
    assert platform.job(job_id).restarts_used == 0


def test_a_run_that_stops_by_itself_goes_on_later(platform: Any, make: Any) -> None:
    job_id, run = platform.started(make["command"]("j"))
    platform.agent.say(run, "preempted")
    platform.controller.runs.tick()
    job = platform.job(job_id)
    assert (job.phase, job.reason, job.restarts_used) == ("queued", "Restarting", 0)


def test_max_duration(platform: Any, make: Any) -> None:
    job_id, run = platform.started(make["command"]("long", max_duration="10m"))
    platform.controller.tick()
    assert platform.job(job_id).phase == "running"
    platform.age(RunRow, run.id, "claimed_at", 601)
    platform.controller.tick()
    assert platform.agent.say(run, "running").order == "stop"
    platform.agent.say(run, "cancelled")
    platform.controller.tick()
    job = platform.job(job_id)
    assert (job.phase, job.reason) == ("failed", "MaxDurationReached")


def test_a_run_nobody_claims_moves_on_when_its_machine_dies(platform: Any, make: Any) -> None:
    job_id = platform.submit(make["command"]("j", ranks=4))
    platform.controller.tick()
    node = platform.run_of(job_id).placements[0]["node_id"]
    del platform.agent.nodes[node]
    platform.agent.beat()
    platform.controller.tick()
    first, second = platform.runs(job_id)
    assert (first.phase, first.reason) == ("cancelled", "NodesGone")
    assert {p["node_id"] for p in second.placements} == {"n1", "n2"} - {node}
    assert platform.job(job_id).restarts_used == 0


def test_why_a_job_waits(platform: Any, make: Any) -> None:
    platform.started(make["command"]("big", ranks=7, max_duration="1h"))
    job_id = platform.submit(make["command"]("next", ranks=4))
    platform.controller.tick()
    job = platform.job(job_id)
    assert (job.phase, job.reason) == ("queued", "InsufficientSlots")
    assert "needs 4 slots, 1 free in cluster a; job/big ends by" in job.message
    assert job.starts_at is not None
    version = job.version
    platform.controller.tick()
    assert platform.job(job_id).version == version
    types = platform.event_types(job_id)
    assert types.count("job.pending") == 1, "the same reason is not told twice"
    with platform.database.write() as session:
        session.get_one(NodeRow, "n1").cordoned = True
    other = platform.submit(make["command"]("cordon", ranks=8, priority="high"))
    platform.controller.tick()
    assert platform.job(other).reason == "NodesCordoned"


def test_a_run_that_cannot_be_moved_does_not_hold_up_the_others(platform: Any, make: Any) -> None:
    broken, first = platform.started(make["command"]("broken"))
    sound, second = platform.started(make["command"]("sound"))
    with platform.database.write() as session:
        job = session.get_one(JobRow, broken)
        job.spec = {**job.spec, "max_restarts": "many"}
    for run in (first, second):
        platform.agent.say(run, "failed", failure=make["failure"]("user_code"))
    with pytest.raises(ValueError, match="many"):
        platform.controller.runs.tick()
    assert platform.job(broken).phase == "running", "nothing of the failed change is kept"
    assert platform.job(sound).reason == "Restarting"
