"""Unknown is not dead, and not for ever."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update

from quarterdeck.store.errors import StaleEpoch
from quarterdeck.store.tables import ClusterRow, RunRow

DATASET = {"kind": "dataset", "name": "files", "uri": "file:///src"}


def test_a_silent_run_is_given_up_on_other_capacity_and_stays_quarantined(platform: Any) -> None:
    job_id, run = platform.started(DATASET)
    platform.silence(run)
    platform.agent.saw(run, "unknown")
    platform.controller.tick()
    old, new = platform.runs(job_id)
    assert (old.phase, old.quarantined, new.epoch) == ("lost", True, 2)
    assert platform.job(job_id).restarts_used == 0
    assert new.placements[0]["node_id"] != old.placements[0]["node_id"]
    assert [item.run_id for item in platform.agent.work().kill] == [old.id]
    with pytest.raises(StaleEpoch):
        platform.agent.say(old, "running")

    full = platform.submit({"kind": "command", "name": "full", "command": "x", "ranks": 7})
    platform.controller.tick()
    assert platform.job(full).reason == "InsufficientSlots", "its slot is still held"
    platform.agent.saw(old, "dead")
    platform.controller.tick()
    assert not platform.runs(job_id)[0].quarantined
    platform.controller.tick()
    assert platform.job(full).phase == "starting"
    assert platform.agent.work().kill == []


def test_a_command_waits_unless_it_is_restart_safe(platform: Any, make: Any) -> None:
    job_id, run = platform.started(make["command"]("careful"))
    safe_id, safe = platform.started(make["command"]("safe", restart_safe=True))
    platform.silence(run)
    platform.silence(safe)
    platform.controller.tick()
    assert len(platform.runs(job_id)) == 1
    assert platform.run_of(job_id).reason == "Unknown"
    assert len(platform.runs(safe_id)) == 2
    platform.controller.tick()
    platform.agent.say(run, "running")
    platform.agent.say(run, "succeeded")
    platform.controller.tick()
    assert platform.job(job_id).phase == "succeeded", "it was alive all the time"


def test_nobody_is_silent_after_an_outage_of_the_control_plane(platform: Any) -> None:
    job_id, run = platform.started(DATASET)
    platform.age(RunRow, run.id, "last_beat_at", 1000)
    with platform.database.write() as session:
        session.execute(update(ClusterRow).values(last_beat_at=run.created_at.replace(year=2020)))
    platform.controller.tick()
    assert platform.job(job_id).phase == "running"
    platform.agent.beat()
    platform.controller.tick()
    platform.controller.tick()
    assert platform.job(job_id).phase == "running", "the agent has only just been heard again"


def test_a_beat_between_the_look_and_the_verdict_saves_the_run(platform: Any) -> None:
    job_id, run = platform.started(DATASET)
    platform.silence(run)
    watcher = platform.controller.runs
    original = watcher._look

    def late(item: Any, lease_id: str) -> bool:
        assert item.facts.silent
        platform.agent.say(run, "running", step=1)
        return original(item, lease_id)

    watcher._look = late
    platform.controller.tick()
    assert platform.job(job_id).phase == "running"
    assert len(platform.runs(job_id)) == 1


def test_a_silent_cluster_makes_its_nodes_unknown_and_comes_back(platform: Any, make: Any) -> None:
    with platform.database.write() as session:
        row = session.query(ClusterRow).one()
        assert row.last_beat_at is not None
        row.last_beat_at = row.last_beat_at.replace(year=2020)
    job_id = platform.submit(make["command"]("j"))
    platform.controller.tick()
    assert platform.job(job_id).reason == "ClusterSilent"
    platform.agent.beat()
    platform.controller.tick()
    assert platform.job(job_id).phase == "starting"


def test_a_cancelled_silent_run_frees_its_job_but_not_its_slots(platform: Any, make: Any) -> None:
    job_id, run = platform.started(make["command"]("careful"))
    platform.wish(job_id, "cancel")
    platform.controller.tick()
    platform.silence(run)
    platform.controller.tick()
    assert platform.job(job_id).phase == "cancelled"
    assert platform.run_of(job_id).quarantined
