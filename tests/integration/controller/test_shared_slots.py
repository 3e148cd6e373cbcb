"""Replicas that share slots: packed, never more than a whole one, however many decide at once."""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import Any

import pytest
from sqlalchemy import select

from quarterdeck.controller.loop import Controller
from quarterdeck.specs.protocol import RankPlacement
from quarterdeck.store import proof
from quarterdeck.store.admission import world
from quarterdeck.store.capacity import hold_capacity, reserve
from quarterdeck.store.dead_nodes import held_by_node
from quarterdeck.store.errors import CapacityTaken
from quarterdeck.store.fleet_queries import capacity_by_cluster
from quarterdeck.store.placements import NewRun, start_replica
from quarterdeck.store.tables import RunRow, ServiceRow


def service(name: str, share: str | None = "40%", **fields: Any) -> dict[str, Any]:
    resources = {} if share is None else {"accelerator_share": share}
    return {
        "kind": "service", "name": name, "model": "file:///m", "resources": resources, **fields,
    }  # fmt: skip


def settle(platform: Any, ticks: int = 4) -> None:
    for _ in range(ticks):
        platform.controller.tick()


def places(platform: Any) -> list[dict[str, Any]]:
    with platform.database.read() as session:
        runs = session.scalars(select(RunRow).order_by(RunRow.created_at, RunRow.id)).all()
        living = [run for run in runs if run.phase not in ("failed", "lost", "cancelled")]
        return [place for run in living for place in run.placements]


def parts(platform: Any) -> dict[tuple[str, int], list[int]]:
    """Thousandths by node and shared slot."""
    found: dict[tuple[str, int], list[int]] = defaultdict(list)
    for place in places(platform):
        if place["shared_slot"] is not None:
            found[place["node_id"], place["shared_slot"]].append(place["share"])
    return found


def violations(platform: Any) -> list[str]:
    with platform.database.read() as session:
        return [one.message for one in proof._slots(session)]


def free(platform: Any) -> int:
    with platform.database.read() as session:
        return capacity_by_cluster(session)["a"].free


@pytest.fixture
def small(platform: Any) -> Any:
    """One machine of two slots."""
    platform.agent.nodes = {"n1": 2, "n2": 0}
    platform.agent.beat()
    return platform


def test_replicas_of_several_services_share_a_slot_and_a_job_gets_the_other(
    small: Any, make: Any
) -> None:
    small.deploy(service("a", "40%", replicas=2))
    settle(small)
    small.deploy(service("b", "20%"))
    settle(small)
    job = small.submit(make["command"]("j"))
    second = small.submit(make["command"]("j2"))
    settle(small)
    assert parts(small) == {("n1", 0): [400, 400, 200]}
    assert (small.job(job).phase, small.job(second).phase) == ("starting", "queued")
    assert small.job(second).message.startswith("needs 1 slots, 0 free")
    assert free(small) == 0 and violations(small) == []


def test_a_replica_without_room_says_what_the_freest_has(small: Any, make: Any) -> None:
    job = small.submit(make["command"]("j"))
    small.controller.tick()
    small.deploy(service("a", "70%"))
    settle(small)
    late = small.deploy(service("late", "40%"))
    settle(small)
    assert small.job(job).phase == "starting" and small.runs(late) == []
    (fact,) = small.service(late).facts
    assert "needs 0.4 of a slot, the freest in cluster a has 0.3 left" in fact


def test_a_slot_is_whole_again_when_its_last_part_has_ended(small: Any, make: Any) -> None:
    first, second = small.deploy(service("a", "40%")), small.deploy(service("b", "40%"))
    settle(small)
    assert free(small) == 1
    for index, owner in enumerate((first, second)):
        with small.database.write() as session:
            session.get_one(ServiceRow, owner).desired = "stop"
        run = small.run_of(owner)
        small.agent.claim(run.id, run.epoch)
        settle(small, 2)
        small.agent.say(run, "cancelled")
        settle(small, 2)
        assert free(small) == 1 + index


def test_a_surge_takes_its_share_only(small: Any, make: Any) -> None:
    """The new revision's replica comes up beside the old one, on the same slot."""
    small.agent.nodes = {"n1": 1}
    small.agent.beat()
    chat = small.deploy(service("chat", "40%"))
    settle(small)
    run = small.run_of(chat)
    small.agent.claim(run.id, run.epoch)
    small.agent.say(run, "ready", endpoint={"url": "http://127.0.0.2:1", "probed": True})
    settle(small)
    small.revise(chat, resources={"accelerator_share": "60%"})
    settle(small)
    assert parts(small) == {("n1", 0): [400, 600]}


def test_a_replica_that_was_given_up_holds_its_part_until_it_is_proven_dead(
    small: Any, make: Any
) -> None:
    owner = small.deploy(service("a", "40%"))
    settle(small)
    run = small.run_of(owner)
    small.agent.claim(run.id, run.epoch)
    small.agent.say(run, "running")
    settle(small)
    small.silence(run)
    settle(small, 3)
    assert small.run_of(owner).epoch >= 1 and small.runs(owner)[0].phase == "lost"
    with small.database.read() as session:
        held = held_by_node(session)["n1"]
    (given_up,) = held.quarantined
    assert (given_up.owner, given_up.slots) == ("service/a", 0.4)
    told = [event.message for event in small.events(owner) if event.type == "run.quarantined"]
    assert "it holds 0.4 slots until it is proven dead" in told[0]
    assert held.shared[0][0].run_id == run.id
    small.agent.saw(run, "dead")
    settle(small, 2)
    with small.database.read() as session:
        after = held_by_node(session).get("n1")
    assert after is None or run.id not in {part.run_id for part in after.shared.get(0, [])}


def together(count: int, work: Any) -> None:
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
    assert errors == []


def test_three_controllers_fill_slots_and_overfill_none(small: Any, make: Any) -> None:
    for index, share in enumerate(("30%", "45%", "60%", "25%", None)):
        small.deploy(service(f"s{index}", share, replicas=2))
    for index in range(3):
        small.submit(make["command"](f"j{index}"))
    controllers = [Controller(small.database) for _ in range(3)]

    def work(index: int) -> None:
        for _ in range(6):
            controllers[index].tick()

    together(3, work)
    settle(small, 2)
    whole = [place for place in places(small) if place["shared_slot"] is None]
    assert len(whole) + len(parts(small)) <= 2 and violations(small) == []
    assert all(sum(held) <= 1000 for held in parts(small).values())
    assert len(places(small)) >= 2


def test_plans_of_one_moment_cannot_overfill_a_slot(small: Any) -> None:
    """The check at commit alone: each plan puts its part where there is room for one of them."""
    owners = [small.deploy(service(f"s{index}", "60%")) for index in range(3)]
    with small.database.read() as session:
        rows = {row.id: row for row in world(session).services}
    refused: list[str] = []

    def work(index: int) -> None:
        place = RankPlacement(rank=0, node_id="n1", share=600, shared_slot=0)
        row = rows[owners[index]]
        try:
            with small.database.write() as session:
                start_replica(session, session.get_one(ServiceRow, row.id),
                              NewRun("a", [place], row.spec, {}, 1))  # fmt: skip
        except CapacityTaken as error:
            refused.append(str(error))

    together(3, work)
    assert parts(small) == {("n1", 0): [600]}
    assert refused == ["of shared slot 0 of node n1 0.4 is left, less than 0.6"] * 2


def test_the_check_at_commit_counts_a_shared_slot_once(small: Any) -> None:
    def place(number: int | None, share: int = 1000, slots: int = 1) -> RankPlacement:
        return RankPlacement(rank=0, node_id="n1", shared_slot=number, share=share, slots=slots)

    with small.database.write() as session:
        hold_capacity(session, ["a"])

        def take(wanted: RankPlacement) -> None:
            reserve(session, "a", "default", [wanted])

        take(place(0, 500))
        take(place(0, 500))
        with pytest.raises(CapacityTaken, match=r"0 is left, less than 0\.001"):
            take(place(0, 1))
        with pytest.raises(CapacityTaken, match="fewer than 2 slots"):
            take(place(None, slots=2))
        take(place(1, 10))
        with pytest.raises(CapacityTaken, match="fewer than 1 slots"):
            take(place(None))
        with pytest.raises(CapacityTaken, match="fewer than 1 slots"):
            take(place(2, 10))
        take(place(1, 990))


def test_the_proof_finds_an_overfull_slot(small: Any) -> None:
    owner = small.deploy(service("a", "60%", replicas=2))
    settle(small)
    assert len(parts(small)) == 2 and violations(small) == []
    with small.database.write() as session:
        for run in session.scalars(select(RunRow).where(RunRow.owner_id == owner)):
            run.placements = [{**run.placements[0], "shared_slot": 0}]
    assert violations(small) == ["replicas hold 1.2 of n1's shared slot 0"]
