"""Arrays: their members run, and the array lives by them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from quarterdeck.lifecycle.job import WITH_RUN
from quarterdeck.store import job_queries
from quarterdeck.store.array_rows import NewMember, add_members, members_of
from quarterdeck.store.tables import JobRow


def array(platform: Any, make: Any, size: int, **fields: Any) -> str:
    """Submit an array; its id."""
    array_id = platform.submit(make["command"]("sweep", array=size, **fields))
    with platform.database.write() as session:
        row = session.get_one(JobRow, array_id)
        members = [
            NewMember(f"sweep-{index}", {**row.spec, "array": None}, "", row.ranks, None)
            for index in range(size)
        ]
        add_members(session, row, members, actor="ada")
    return str(array_id)


def phases(platform: Any, array_id: str) -> list[str]:
    with platform.database.read() as session:
        return [member.phase for member in members_of(session, array_id)]


def finish(platform: Any, array_id: str, phase: str, make: Any, most: int = 100) -> None:
    """Let runs of members that have started end."""
    failed = {"failure": make["failure"]("user_code")} if phase == "failed" else {}
    with platform.database.read() as session:
        members = members_of(session, array_id)
    for member in [one for one in members if one.phase in WITH_RUN][:most]:
        run = platform.run_of(member.id)
        if run.claimed_by is None:
            platform.agent.claim(run.id, run.epoch)
        platform.agent.say(run, phase, **failed)


def ticks(platform: Any, count: int = 3) -> None:
    for _ in range(count):
        platform.controller.tick()


def wish(platform: Any, job_id: str, desired: str) -> None:
    with platform.database.write() as session:
        row = job_queries.get_job(session, job_id, "default", lock=True)
        job_queries.wish(session, row, desired, actor="ada")


def test_at_most_so_many_at_once_and_who_waits_for_all(platform: Any, make: Any) -> None:
    array_id = array(platform, make, 5, array_parallelism=2)
    after = platform.submit(make["command"]("after", after=["job/sweep"]))
    ticks(platform)
    assert phases(platform, array_id) == ["starting"] * 2 + ["waiting"] * 3
    assert platform.job(array_id).phase == "running"
    for left in (3, 1, 0):
        assert platform.job(after).phase == "waiting"
        finish(platform, array_id, "succeeded", make)
        ticks(platform)
        found = phases(platform, array_id)
        assert found.count("waiting") == max(0, left - 2)
        assert found.count("starting") == min(2, left)
    assert (platform.job(array_id).phase, platform.job(array_id).run_id) == ("succeeded", None)
    assert platform.job(after).phase == "starting"
    moves = [e.data["to"] for e in platform.events(array_id) if e.type == "job.phase"]
    assert moves == ["queued", "running", "succeeded"]


def test_one_failed_member_fails_the_array_when_all_have_ended(platform: Any, make: Any) -> None:
    array_id = array(platform, make, 3, max_restarts=0)
    ticks(platform)
    finish(platform, array_id, "failed", make, most=1)
    ticks(platform)
    assert platform.job(array_id).phase == "running"
    assert "1 failed" in platform.job(array_id).message
    finish(platform, array_id, "succeeded", make)
    ticks(platform)
    job = platform.job(array_id)
    assert (job.phase, job.reason) == ("failed", "MembersFailed")
    assert job.message == "1 failed, 2 succeeded of 3"


def test_cancel_reaches_running_and_held_members(platform: Any, make: Any) -> None:
    array_id = array(platform, make, 4, array_parallelism=1)
    ticks(platform)
    platform.agent.claim_all()
    wish(platform, array_id, "cancel")
    ticks(platform)
    assert phases(platform, array_id)[1:] == ["cancelled"] * 3
    assert platform.job(array_id).phase == "running", "a member still has its run"
    finish(platform, array_id, "cancelled", make)
    ticks(platform)
    with platform.database.read() as session:
        ends = {row.phase for row in session.scalars(select(JobRow))}
    assert ends == {"cancelled"}


def test_an_array_waits_and_fails_with_what_it_waits_for(platform: Any, make: Any) -> None:
    first, run = platform.started(make["command"]("first", max_restarts=0))
    array_id = array(platform, make, 3, after=["job/first"])
    ticks(platform)
    assert {platform.job(array_id).phase, *phases(platform, array_id)} == {"waiting"}
    platform.agent.say(run, "failed", failure=make["failure"]("user_code"))
    ticks(platform)
    assert platform.job(first).phase == "failed"
    assert platform.job(array_id).reason == "DependencyFailed"
    with platform.database.read() as session:
        members = members_of(session, array_id)
    assert {(one.phase, one.reason) for one in members} == {("failed", "DependencyFailed")}


def test_a_suspended_array_goes_on(platform: Any, make: Any) -> None:
    array_id = array(platform, make, 3, array_parallelism=1)
    ticks(platform)
    wish(platform, array_id, "suspend")
    ticks(platform)
    finish(platform, array_id, "preempted", make)
    ticks(platform)
    assert platform.job(array_id).phase == "suspended"
    assert "starting" not in phases(platform, array_id)
    wish(platform, array_id, "run")
    ticks(platform, 4)
    assert phases(platform, array_id).count("starting") == 1
    for _ in range(3):
        finish(platform, array_id, "succeeded", make)
        ticks(platform)
    assert platform.job(array_id).phase == "succeeded"
