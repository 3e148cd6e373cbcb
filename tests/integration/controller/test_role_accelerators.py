"""Gangs whose roles have different accelerators: placed, held, explained and freed on both
databases, however many controllers decide at once."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import pytest
from sqlalchemy import select

from quarterdeck.controller.loop import Controller
from quarterdeck.specs.protocol import RankPlacement
from quarterdeck.store import proof
from quarterdeck.store.capacity import held_capacity, hold_capacity, reserve, tentative
from quarterdeck.store.errors import CapacityTaken
from quarterdeck.store.tables import RunRow

ENDED = ("succeeded", "failed", "lost", "cancelled")


def role(ranks: int, accelerator: str, **resources: Any) -> dict[str, Any]:
    return {
        "ranks": ranks, "command": "true", "resources": {"accelerator": accelerator, **resources},
    }  # fmt: skip


def gang(name: str, **roles: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "command", "name": name, "roles": roles}


RL = {"trainer": role(2, "H100"), "rollout": role(3, "l4"), "driver": role(1, "cpu", cpus=1.5)}


@pytest.fixture
def mixed(platform: Any) -> Any:
    """Two machines of two H100s, two of four L4s, one of two CPU slots."""
    platform.agent.nodes = {"n1": 0, "n2": 0, "h1": 2, "h2": 2, "l1": 4, "l2": 4, "c1": 2}
    models = {"h": "H100", "l": "L4"}
    platform.agent.accelerators = {
        node: models[node[0]] for node in platform.agent.nodes if node[0] in models
    }
    platform.agent.beat()
    return platform


def used(platform: Any) -> Counter[str]:
    count: Counter[str] = Counter()
    with platform.database.read() as session:
        for run in session.scalars(select(RunRow)):
            if run.phase not in ENDED:
                for place in run.placements:
                    count[place["node_id"]] += place["slots"]
    return count


def overcommitted(platform: Any) -> list[str]:
    with platform.database.read() as session:
        return [one.message for one in proof._slots(session)]


def test_each_role_starts_on_its_accelerator_and_the_events_say_so(mixed: Any) -> None:
    job, run = mixed.started(gang("rl", **RL))
    told = [(place["role"], place["accelerator"]) for place in run.placements]
    assert told == [("trainer", "H100")] * 2 + [("rollout", "L4")] * 3 + [("driver", "cpu")]
    for place in run.placements:
        assert mixed.agent.accelerators.get(place["node_id"], "cpu") == place["accelerator"]
    events = {event.type: event for event in mixed.events(job)}
    assert events["run.assigned"].data["roles"] == {
        "trainer": {"accelerator": "H100", "slots": 2},
        "rollout": {"accelerator": "L4", "slots": 3},
        "driver": {"accelerator": "cpu", "slots": 1},
    }
    (placed,) = [event.message for event in mixed.events(job) if "H100" in event.message]
    assert "2 H100 for trainer, 3 L4 for rollout, 1 cpu for driver" in placed


def test_what_it_holds_is_counted_by_machine_and_freed_at_its_end(mixed: Any, make: Any) -> None:
    _, run = mixed.started(gang("rl", **RL))
    again = mixed.submit(gang("again", **RL))
    third = mixed.submit(gang("third", trainer=role(1, "H100"), rollout=role(1, "L4")))
    mixed.controller.tick()
    waiting = mixed.job(again)
    assert (waiting.phase, waiting.reason) == ("queued", "InsufficientSlots")
    assert waiting.message == (
        "needs 2 H100 for trainer (2 free), 3 L4 for rollout (5 free), 1 cpu slots for driver "
        "(1 free) in cluster a, but not with 1.5 cpus for each rank of driver"
    ), "c1 has a slot left, and half a cpu"
    assert mixed.job(third).phase == "queued", "it would take an H100 that the one ahead needs"
    mixed.agent.say(run, "succeeded")
    mixed.controller.tick()
    mixed.controller.tick()
    assert (mixed.job(again).phase, mixed.job(third).phase) == ("starting", "starting")
    assert sum(used(mixed).values()) == 8 and overcommitted(mixed) == []


def test_launchers_get_one_place_for_each_role_and_machine(mixed: Any) -> None:
    roles = {"trainer": role(3, "H100"), "rollout": role(4, "L4")}
    _, run = mixed.started({**gang("ddp", **roles), "launch": "per_node"})
    told = [(place["role"], place["node_id"], place["slots"]) for place in run.placements]
    assert told == [("trainer", "h1", 2), ("trainer", "h2", 1), ("rollout", "l1", 4)]
    assert [place["accelerator"] for place in run.placements] == ["H100", "H100", "L4"]


def test_a_gang_that_comes_too_late_takes_nothing_of_any_pool(mixed: Any) -> None:
    """The check at commit: its H100s are free, its L4 is not."""
    wanted = [
        RankPlacement(rank=0, role="trainer", node_id="h1", accelerator="H100"),
        RankPlacement(rank=1, role="rollout", node_id="l1", accelerator="L4"),
    ]
    full = [RankPlacement(rank=0, node_id="l1", slots=4)]
    with mixed.database.write() as session:
        hold_capacity(session, ["a"])
        reserve(session, "a", "default", full)
        with pytest.raises(CapacityTaken, match="node l1 has fewer than 1 slots"):
            with tentative(session):
                reserve(session, "a", "default", wanted)
        assert held_capacity(session)["a"].used.slots == {"l1": 4}


def test_three_controllers_start_no_gang_in_part_and_fill_no_machine_twice(
    mixed: Any, make: Any
) -> None:
    jobs = [
        mixed.submit(gang(f"g{index}", trainer=role(1, "H100"), rollout=role(2, "L4")))
        for index in range(5)
    ]
    jobs += [
        mixed.submit(make["command"](f"p{index}", resources={"accelerator": model}))
        for index, model in enumerate(("H100", "L4", "cpu", "H100"))
    ]
    controllers = [Controller(mixed.database) for _ in range(3)]
    barrier, errors = threading.Barrier(3), []

    def body(controller: Controller) -> None:
        try:
            barrier.wait(timeout=30)
            for _ in range(4):
                controller.tick()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=body, args=(one,)) for one in controllers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert errors == [] and overcommitted(mixed) == []
    assert all(count <= mixed.agent.nodes[node] for node, count in used(mixed).items())
    runs = [run for job in jobs for run in mixed.runs(job)]
    for run in runs:
        roles = Counter(place["role"] for place in run.placements)
        assert roles in ({"trainer": 1}, {"trainer": 1, "rollout": 2})
    phases = Counter(mixed.job(job).phase for job in jobs)
    assert phases == {"starting": 5, "queued": 4}, phases
    assert mixed.job(jobs[4]).phase == "queued"
    assert "needs 1 H100 for trainer (0 free)" in mixed.job(jobs[4]).message
