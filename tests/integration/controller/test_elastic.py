"""Elastic trainings: they restart smaller where the full gang does not fit, and regrow."""

from __future__ import annotations

from typing import Any

import pytest

from quarterdeck.specs.beats import RankSeconds
from quarterdeck.store.tables import JobRow, RunRow

TRAINING = {
    "kind": "pretrain",
    "name": "p",
    "architecture": {
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 512,
        "max_position_embeddings": 128,
    },
    "datasets": "file:///data",
    "parallelism": {"data": 2, "tensor": 2, "pipeline": 2},
    "training": {"steps": 100, "sequence_length": 64, "global_batch_size": 8},
    "elastic": {"min_ranks": 4, "regrow_every": "5m"},
}  # fmt: skip
SMALLER = [
    {"data": 1, "tensor": 2, "pipeline": 2, "zero": 1},
    {"data": 2, "tensor": 2, "pipeline": 1, "zero": 1},
]


@pytest.fixture
def begun(platform: Any) -> tuple[Any, str, RunRow]:
    """An elastic job of 8 ranks at work on two machines of four slots."""
    job_id = platform.submit(TRAINING)
    with platform.database.write() as session:
        session.get_one(JobRow, job_id).smaller_layouts = SMALLER
    return platform, job_id, platform.bring_up(job_id)


def lose_a_node(platform: Any, make: Any, run: RunRow) -> None:
    del platform.agent.nodes["n2"]
    platform.agent.beat()
    platform.agent.say(run, "failed", failure=make["failure"]("node", "its node is gone"))


def work_small(platform: Any, job_id: str, eta: float = 3600.0) -> RunRow:
    run: RunRow = platform.bring_up(job_id)
    accounts = RankSeconds(restart=80.0)
    platform.agent.say(run, "running", step=11, eta_seconds=eta, accounts=accounts)
    platform.controller.tick()
    return run


def types(platform: Any, job_id: str) -> list[str]:
    return [kind for kind in platform.event_types(job_id) if kind in ("run.shrunk", "run.regrown")]


def test_a_lost_node_shrinks_the_gang_and_its_return_regrows_it(begun: Any, make: Any) -> None:
    platform, job_id, run = begun
    platform.agent.say(run, "running", step=10, checkpoints=[make["manifest"](run, 10)])
    lose_a_node(platform, make, run)
    small = work_small(platform, job_id)
    assert (small.epoch, len(small.placements), small.full_ranks) == (2, 4, 8)
    assert {place["node_id"] for place in small.placements} == {"n1"}
    assert small.spec["parallelism"] == SMALLER[0] and small.spec["ranks"] == 4
    assert small.resumed_from_step == 10
    (fact,) = platform.job(job_id).facts
    assert fact.startswith("running on 4 of 8 ranks: regrows when 8 slots have been free")
    told = next(event for event in platform.events(job_id) if event.type == "run.shrunk")
    assert (told.data["from_ranks"], told.data["to_ranks"]) == (8, 4)
    assert told.data["to"] == SMALLER[0] and "needs 8" in told.data["why"]

    platform.agent.nodes["n2"] = 4
    platform.agent.beat()
    platform.controller.tick()
    assert platform.run_of(job_id).fits_since is not None
    platform.controller.tick()
    assert platform.run_of(job_id).order == "continue"
    assert "regrows once they have for 30 s" in platform.job(job_id).facts[0]
    platform.age(RunRow, small.id, "fits_since", 31)
    platform.controller.tick()
    assert (platform.job(job_id).phase, platform.job(job_id).reason) == ("stopping", "Regrowing")
    assert platform.agent.say(small, "stopping").order == "checkpoint_and_stop"
    platform.agent.say(small, "preempted", checkpoints=[make["manifest"](small, 12)])
    full = platform.bring_up(job_id)
    assert (full.epoch, len(full.placements), full.full_ranks) == (3, 8, None)
    assert full.resumed_from_step == 12 and full.spec["parallelism"]["data"] == 2
    job = platform.job(job_id)
    assert (job.phase, job.restarts_used, list(job.facts)) == ("running", 0, [])
    assert types(platform, job_id) == ["run.shrunk", "run.regrown"]


def test_it_does_not_regrow_again_too_soon_nor_for_too_little(begun: Any, make: Any) -> None:
    platform, job_id, run = begun
    lose_a_node(platform, make, run)
    small = work_small(platform, job_id, eta=30.0)
    platform.agent.nodes["n2"] = 4
    platform.agent.beat()
    platform.controller.tick()
    platform.age(RunRow, small.id, "fits_since", 1000)
    platform.controller.tick()
    assert platform.run_of(job_id).order == "continue"
    # Starting took 80 rank-seconds, 20 s: half of 30 s is not worth that.
    assert "would save only 15 s, less than a restart (20 s)" in platform.job(job_id).facts[0]
    platform.agent.say(small, "running", step=12, eta_seconds=400.0)
    platform.controller.tick()
    assert platform.job(job_id).reason == "Regrowing"
    platform.agent.say(small, "preempted")
    full = platform.bring_up(job_id)
    platform.agent.say(full, "running", step=20, checkpoints=[make["manifest"](full, 20)])
    lose_a_node(platform, make, full)
    again = work_small(platform, job_id)
    platform.agent.nodes["n2"] = 4
    platform.agent.beat()
    platform.controller.tick()
    platform.age(RunRow, again.id, "fits_since", 1000)
    platform.controller.tick()
    assert "regrew less than 300 s ago" in platform.job(job_id).facts[0]
    platform.age(RunRow, small.id, "ended_at", 300)
    platform.controller.tick()
    assert platform.job(job_id).reason == "Regrowing"


def test_what_others_hold_or_are_owed_is_not_regrown_into(begun: Any, make: Any) -> None:
    platform, job_id, run = begun
    lose_a_node(platform, make, run)
    small = work_small(platform, job_id)
    urgent = platform.submit(make["command"]("urgent", ranks=6, priority=10))
    platform.agent.nodes["n2"] = 4
    platform.agent.beat()
    platform.controller.tick()
    platform.controller.tick()
    # The urgent job waits for six slots: it comes before those that would regrow.
    assert platform.job(urgent).phase == "queued"
    assert platform.run_of(job_id).fits_since is None
    platform.wish(urgent, "cancel")
    platform.controller.tick()
    platform.controller.tick()
    assert platform.run_of(job_id).fits_since is not None
    platform.wish(job_id, "suspend")
    platform.age(RunRow, small.id, "fits_since", 1000)
    platform.controller.tick()
    assert platform.run_of(job_id).stopping_for == "suspend"


def test_a_first_attempt_and_a_job_that_is_not_elastic_wait_for_all(
    platform: Any, make: Any
) -> None:
    del platform.agent.nodes["n2"]
    platform.agent.beat()
    job_id = platform.submit(TRAINING)
    with platform.database.write() as session:
        session.get_one(JobRow, job_id).smaller_layouts = SMALLER
    platform.controller.tick()
    assert platform.job(job_id).phase == "queued"
    platform.agent.nodes["n2"] = 4
    platform.agent.beat()
    rigid = platform.submit({**TRAINING, "name": "rigid", "elastic": None, "priority": 5})
    run = platform.bring_up(rigid)
    platform.wish(job_id, "cancel")
    lose_a_node(platform, make, run)
    platform.controller.tick()
    platform.controller.tick()
    assert platform.job(rigid).phase == "queued" and len(platform.runs(rigid)) == 1
