"""Several controllers at once: no run is made twice, nothing is given out twice."""

from __future__ import annotations

import threading
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm.attributes import set_committed_value

from quarterdeck.controller.loop import Controller
from quarterdeck.controller.turns import Turns
from quarterdeck.store.tables import JobRow, RunRow


def together(count: int, work: Any) -> list[BaseException]:
    barrier, errors = threading.Barrier(count), []

    def body(index: int) -> None:
        try:
            barrier.wait(timeout=30)
            work(index)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=body, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not any(thread.is_alive() for thread in threads)
    return errors


def test_three_controllers_create_each_run_once(platform: Any, make: Any) -> None:
    platform.agent.nodes = {f"n{i}": 4 for i in range(4)}
    platform.agent.beat()
    jobs = [platform.submit(make["command"](f"j{i}")) for i in range(24)]
    controllers = [Controller(platform.database) for _ in range(3)]

    def work(index: int) -> None:
        for _ in range(6):
            controllers[index].tick()

    assert together(3, work) == []
    with platform.database.read() as session:
        runs = session.scalars(select(RunRow)).all()
        placed = session.scalars(select(JobRow).where(JobRow.phase == "starting")).all()
    assert Counter(run.owner_id for run in runs).most_common(1)[0][1] == 1
    assert len(runs) == len(placed) == 16
    assert {run.epoch for run in runs} == {1}
    used = Counter(place["node_id"] for run in runs for place in run.placements)
    assert set(used.values()) == {4}, "no machine holds more than it has"
    first = set(jobs[:16])
    assert {run.owner_id for run in runs} == first, "in the order of submission"


def test_two_plans_of_the_same_moment_create_one_run(platform: Any, make: Any) -> None:
    """The compare-and-swap alone, without leases to hide its absence."""
    job_id = platform.submit(make["command"]("one"))
    first, second = Controller(platform.database).admission, Controller(platform.database).admission
    seen: list[tuple[Any, ...]] = []

    def hold(*args: Any) -> int:
        seen.append(args)
        return 0

    first._start_jobs = hold
    first.tick()
    world, jobs, placed, _, turns = seen[0]
    with platform.database.write() as session:
        session.get_one(JobRow, job_id).lease_id = "both"
    assert second._start_jobs(world, jobs, placed, "both", turns) == 1
    assert second._start_jobs(world, jobs, placed, "both", turns) == 0
    assert len(platform.runs(job_id)) == 1


def test_a_run_is_claimed_once_by_many_agents(platform: Any, make: Any) -> None:
    job_id = platform.submit(make["command"]("one"))
    platform.controller.tick()
    run = platform.run_of(job_id)
    errors = together(6, lambda index: platform.agent.claim(run.id, 1))
    assert [type(error).__name__ for error in errors] == ["AlreadyClaimed"] * 5


def test_a_lease_is_held_by_one(platform: Any, make: Any) -> None:
    from quarterdeck.store.admission import claim_jobs

    for index in range(30):
        platform.submit(make["command"](f"j{index}"))
    taken: dict[int, list[str]] = {}

    def take(index: int) -> None:
        with platform.database.write() as session:
            taken[index] = claim_jobs(session, f"lease-{index}", limit=10)

    assert together(4, take) == []
    ids = [job_id for mine in taken.values() for job_id in mine]
    assert len(ids) == len(set(ids)) == 30


def plans_of_an_empty_machine(platform: Any, make: Any) -> list[tuple[Any, ...]]:
    """Three plans that each give all of one machine to another job."""
    platform.agent.nodes = {"n1": 4}
    platform.agent.beat()
    captured: list[tuple[Any, ...]] = []
    for name in ("one", "two", "three"):
        job_id = platform.submit(make["command"](name, ranks=4))
        admission = Controller(platform.database).admission
        admission._start_jobs = lambda *args: bool(captured.append(args))
        admission.tick()
        with platform.database.write() as session:
            # Out of the next plan's sight, so that each sees an empty machine.
            row = session.get_one(JobRow, job_id)
            row.desired, row.lease_id = "suspend", "all"
            row.lease_until = row.created_at + timedelta(hours=1)
    assert [len(placed) for _, _, placed, _, _ in captured] == [1, 1, 1]
    with platform.database.write() as session:
        for _, _, placed, _, _ in captured:
            session.get_one(JobRow, next(iter(placed))).desired = "run"
    return captured


def test_one_batch_cannot_give_slots_twice(platform: Any, make: Any) -> None:
    captured = plans_of_an_empty_machine(platform, make)
    world = captured[0][0]
    jobs = {job_id: job for _, found, _, _, _ in captured for job_id, job in found.items()}
    placed = {job_id: given for _, _, found, _, _ in captured for job_id, given in found.items()}
    admission = Controller(platform.database).admission
    assert admission._start_jobs(world, jobs, placed, "all", Turns()) == 1
    assert sum(len(platform.runs(job_id)) for job_id in placed) == 1


def test_plans_of_old_snapshots_cannot_share_slots(platform: Any, make: Any) -> None:
    """Capacity is checked again where runs are created, one creator at a time."""
    captured = plans_of_an_empty_machine(platform, make)
    created: list[int] = []
    admission = Controller(platform.database).admission

    def work(index: int) -> None:
        world, jobs, placed, _, turns = captured[index]
        created.append(admission._start_jobs(world, jobs, placed, "all", turns))

    assert together(3, work) == []
    assert sorted(created) == [0, 0, 1]


def test_one_that_changed_meanwhile_keeps_none_of_its_batch_from_starting(
    platform: Any, make: Any
) -> None:
    """What is written together falls back to one by one."""
    jobs = [platform.submit(make["command"](f"j{i}")) for i in range(4)]
    admission = Controller(platform.database).admission
    together_ = admission._try_together

    def change_one(session: Any, rows: Any, lease_id: str, work: Any) -> Any:
        for row in rows:
            if row.id == jobs[1] and row.phase == "queued":
                set_committed_value(row, "version", row.version - 1)  # as read before a change
        return together_(session, rows, lease_id, work)

    admission._try_together = change_one
    assert admission.tick() == 3
    assert [platform.job(job_id).phase for job_id in jobs] == [
        "starting", "queued", "starting", "starting",
    ]  # fmt: skip
    assert [len(platform.runs(job_id)) for job_id in jobs] == [1, 0, 1, 1]
    assert Controller(platform.database).admission.tick() == 1


def test_a_long_queue_is_planned_from_its_front(
    platform: Any, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quarterdeck.store.admission.VIEW", 3)
    platform.agent.nodes = {"n1": 4}
    platform.agent.beat()
    jobs = [platform.submit(make["command"](f"j{i}")) for i in range(8)]
    late = platform.submit(make["command"]("urgent", priority="high"))
    assert Controller(platform.database).admission.tick() == 4
    started = [job_id for job_id in [late, *jobs] if platform.job(job_id).phase == "starting"]
    assert started == [late, *jobs[:3]]
    assert "ahead" in " ".join([platform.job(jobs[-1]).message, *platform.job(jobs[-1]).facts])
