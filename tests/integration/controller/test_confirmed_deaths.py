"""Somebody vouches for a machine's death: the way out of unknown."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select, update

from quarterdeck.store.dead_nodes import confirm_dead, held_by_node
from quarterdeck.store.errors import NodeAlive, StaleEpoch
from quarterdeck.store.tables import ClusterRow, EventRow, NodeRow

DATASET = {"kind": "dataset", "name": "files", "uri": "file:///src"}


def vouch(platform: Any, node: str, *, force: bool = False) -> None:
    with platform.database.write() as session:
        row = session.get_one(NodeRow, node)
        confirm_dead(session, row, actor="key/ada", reason="it burnt", force=force)


def lose_contact(platform: Any) -> None:
    """The agent is silent for ten minutes, while another cluster's is heard all the time."""
    platform.hear_for(2000)
    with platform.database.write() as session:
        cluster = session.scalars(select(ClusterRow).where(ClusterRow.name == "a")).one()
        session.add(
            ClusterRow(
                id="other", name="other", last_beat_at=cluster.last_beat_at,
                heard_since=cluster.heard_since,
            )
        )  # fmt: skip
        session.execute(
            update(ClusterRow)
            .where(ClusterRow.name == "a")
            .values(last_beat_at=cluster.last_beat_at.replace(year=2020))
        )
    platform.controller.tick()


def node_of(run: Any) -> str:
    return str(run.placements[0]["node_id"])


def test_a_node_that_beats_is_not_dead_unless_forced(platform: Any, make: Any) -> None:
    job_id, run = platform.started(make["command"]("j"))
    with pytest.raises(NodeAlive, match="alive"):
        vouch(platform, node_of(run))
    platform.controller.tick()
    assert platform.job(job_id).phase == "running"
    vouch(platform, node_of(run), force=True)
    platform.agent.beat()
    with platform.database.read() as session:
        assert session.get_one(NodeRow, node_of(run)).phase == "dead", "Ray does not bring it back"
        events = session.scalars(select(EventRow).where(EventRow.type == "node.confirmed_dead"))
        assert [(each.actor, each.data["forced"]) for each in events] == [("key/ada", True)]
    platform.controller.tick()
    first, second = platform.runs(job_id)
    assert (first.phase, first.quarantined, first.failure["blame"]) == ("lost", False, "node")
    assert "confirmed by key/ada: it burnt" in first.failure["message"]
    assert platform.job(job_id).restarts_used == 0
    assert node_of(second) != node_of(first)
    with pytest.raises(StaleEpoch):
        platform.agent.say(first, "running")


def test_a_careful_command_waits_visibly_and_starts_anew_after_the_word(
    platform: Any, make: Any
) -> None:
    job_id, run = platform.started(make["command"]("careful"))
    platform.silence(run)
    platform.controller.tick()
    job = platform.job(job_id)
    assert (job.phase, job.reason) == ("running", "Unknown")
    assert f"nodes confirm-dead {node_of(run)}" in job.message
    assert platform.controller.runs.tick() == 0, "nothing new is to be said"
    platform.agent.say(run, "running")
    platform.controller.tick()
    assert (platform.job(job_id).reason, platform.run_of(job_id).reason) == ("Running", "Running")
    types = platform.event_types(job_id)
    assert (types.count("run.unknown"), types.count("run.heard")) == (1, 1)

    platform.silence(run)
    lose_contact(platform)
    assert platform.job(job_id).reason == "Unknown"
    vouch(platform, node_of(run))
    platform.controller.tick()
    old = platform.run_of(job_id)
    assert (old.phase, old.quarantined) == ("lost", False)
    job = platform.job(job_id)
    assert (job.phase, job.restarts_used) == ("queued", 0)
    assert job.reason == "ClusterSilent"


def test_a_silent_careful_command_can_still_be_cancelled_and_ends_in_time(
    platform: Any, make: Any
) -> None:
    first, run = platform.started(make["command"]("first"))
    limited, other = platform.started(make["command"]("second", max_duration="10m"))
    for each in (run, other):
        platform.silence(each)
    platform.controller.tick()
    assert platform.job(first).reason == platform.job(limited).reason == "Unknown"
    platform.wish(first, "cancel")
    platform.controller.tick()
    assert platform.job(first).phase == "cancelled"
    platform.age(type(other), other.id, "claimed_at", 10_000)
    platform.controller.tick()
    job = platform.job(limited)
    assert (job.phase, job.reason) == ("failed", "MaxDurationReached")
    assert platform.run_of(first).quarantined and platform.run_of(limited).quarantined


def test_quarantined_slots_are_shown_and_freed_when_all_machines_are_confirmed(
    platform: Any, make: Any
) -> None:
    job_id, run = platform.started(make["command"]("wide", ranks=6, restart_safe=True))
    platform.silence(run)
    platform.controller.tick()
    assert platform.run_of(job_id).quarantined
    assert "run.quarantined" in platform.event_types(job_id)
    with platform.database.read() as session:
        held = held_by_node(session)
    assert sorted(sum(q.slots for q in one.quarantined) for one in held.values()) == [2, 4]
    job = platform.job(job_id)
    assert job.phase == "queued", "no other machine is left"
    next_id = platform.submit(make["command"]("next", ranks=3))
    platform.controller.tick()
    facts = " ".join(platform.job(next_id).facts)
    assert "quarantined: run 1 of job/wide was given up" in facts, platform.job(next_id).facts
    assert "confirm-dead" in facts

    vouch(platform, "n1", force=True)
    platform.controller.tick()
    assert platform.run_of(job_id).quarantined, "the other machine may still run it"
    platform.agent.nodes = {"n2": 4, "n3": 6}
    platform.agent.beat()
    vouch(platform, "n2", force=True)
    platform.controller.tick()
    old = platform.runs(job_id)[0]
    assert not old.quarantined
    freed = [event for event in platform.events(job_id) if event.type == "run.freed"]
    assert "it burnt" in freed[0].message
    assert node_of(platform.run_of(job_id)) == "n3"
