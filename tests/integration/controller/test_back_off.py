"""Crash loops slow down; machines' failures never use up restarts."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update

from quarterdeck.lifecycle.restarts import MAX_FRUITLESS
from quarterdeck.store.tables import JobRow, RunRow


def fail(platform: Any, make: Any, job_id: str, blame: str = "user_code") -> Any:
    run = platform.run_of(job_id)
    platform.agent.claim(run.id, run.epoch)
    platform.agent.say(run, "failed", failure=make["failure"](blame))
    platform.agent.beat()  # on a slow machine its cluster would be silent by now
    platform.controller.tick()
    return run


def skip_pause(platform: Any, job_id: str) -> None:
    if platform.job(job_id).restart_at is not None:
        platform.age(JobRow, job_id, "restart_at", 3000)
        platform.controller.tick()


def test_a_crash_loop_waits_ever_longer_and_holds_up_nobody(platform: Any, make: Any) -> None:
    job_id = platform.submit(make["command"]("loop", ranks=8, max_restarts=5))
    platform.controller.tick()
    fail(platform, make, job_id)
    assert platform.run_of(job_id).epoch == 2, "the first restart comes at once"
    fail(platform, make, job_id)
    job = platform.job(job_id)
    assert (job.phase, job.reason, job.restarts_used) == ("queued", "BackingOff", 2)
    assert job.restart_at == job.starts_at and "restarts at" in job.message
    assert "boom" in job.message
    platform.age(JobRow, job_id, "restart_at", -1000)  # however slow this machine is
    version = job.version
    platform.controller.tick()
    assert platform.job(job_id).version == version and platform.run_of(job_id).epoch == 2
    other = platform.submit(make["command"]("other", ranks=8))
    platform.controller.tick()
    assert platform.job(other).phase == "starting", "its slots are free meanwhile"
    platform.wish(other, "cancel")
    platform.controller.tick()
    skip_pause(platform, job_id)
    job = platform.job(job_id)
    assert (job.phase, job.restart_at, platform.run_of(job_id).epoch) == ("starting", None, 3)


def test_progress_ends_the_row(platform: Any, make: Any) -> None:
    job_id = platform.submit({"kind": "dataset", "name": "d", "uri": "file:///x"})
    platform.controller.tick()
    for _ in range(2):
        fail(platform, make, job_id)
        skip_pause(platform, job_id)
    run = platform.run_of(job_id)
    platform.agent.claim(run.id, run.epoch)
    platform.agent.say(run, "running", step=5, checkpoints=[make["manifest"](run, 5)])
    platform.agent.say(run, "failed", failure=make["failure"]("user_code"))
    platform.controller.tick()
    assert platform.job(job_id).phase == "starting", "it kept a checkpoint: no pause"


def test_a_loop_of_runs_that_stop_by_themselves_backs_off(platform: Any) -> None:
    job_id = platform.submit({"kind": "dataset", "name": "d", "uri": "file:///x"})
    platform.controller.tick()
    for _ in range(3):
        run = platform.run_of(job_id)
        platform.agent.claim(run.id, run.epoch)
        platform.agent.say(run, "preempted")
        platform.controller.tick()
        if platform.job(job_id).phase == "queued":
            break
    assert (platform.job(job_id).reason, platform.run_of(job_id).epoch) == ("BackingOff", 2)


@pytest.mark.parametrize("blame", ["node", "network", "disk"])
def test_machines_use_up_no_restart_and_fruitless_attempts_are_bounded(
    platform: Any, make: Any, blame: str
) -> None:
    job_id = platform.submit(make["command"]("j", max_restarts=0))
    platform.controller.tick()
    for count in range(1, MAX_FRUITLESS + 1):
        assert platform.run_of(job_id).epoch == count
        fail(platform, make, job_id, blame)
        skip_pause(platform, job_id)
    job = platform.job(job_id)
    assert (job.phase, job.restarts_used) == ("failed", 0)
    assert "10 attempts in a row" in job.message


def test_suspensions_and_gaps_of_epochs_are_no_failures(platform: Any, make: Any) -> None:
    job_id = platform.submit(make["command"]("j", max_restarts=0))
    platform.controller.tick()
    for _ in range(MAX_FRUITLESS + 1):
        run = platform.run_of(job_id)
        platform.agent.beat()
        platform.agent.claim(run.id, run.epoch)
        platform.wish(job_id, "suspend")
        platform.controller.tick()
        platform.agent.say(run, "cancelled")
        platform.controller.tick()
        assert platform.job(job_id).phase == "suspended"
        platform.wish(job_id, "run")
        platform.controller.tick()
    fail(platform, make, job_id, "node")
    assert platform.job(job_id).phase == "starting"
    with platform.database.write() as session:  # as after a restored backup
        session.execute(update(JobRow).values(epoch=1000))
        session.execute(
            update(RunRow).where(RunRow.id == platform.run_of(job_id).id).values(epoch=1000)
        )
    fail(platform, make, job_id, "node")
    assert platform.job(job_id).reason == "BackingOff"


def test_a_supervisor_that_was_never_created_uses_up_no_restart(platform: Any, make: Any) -> None:
    job_id = platform.submit(make["command"]("j", max_restarts=0))
    platform.controller.tick()
    run = platform.run_of(job_id)
    platform.agent.claim(run.id, run.epoch)
    platform.agent.saw(run, "dead")
    platform.controller.tick()
    assert (platform.job(job_id).phase, platform.run_of(job_id).epoch) == ("starting", 2)


def test_a_head_that_starts_anew_uses_up_no_restart(platform: Any, make: Any) -> None:
    """Ray forgets its nodes and supervisors: the machines are new ones."""
    job_id, run = platform.started(make["command"]("j", max_restarts=0))
    platform.agent.nodes = {"m1": 4}
    platform.agent.saw(run, "dead")
    platform.controller.tick()
    assert platform.runs(job_id)[0].failure["blame"] == "node"
    assert platform.run_of(job_id).placements[0]["node_id"] == "m1"
