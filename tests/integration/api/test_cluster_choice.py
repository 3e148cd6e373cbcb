"""Two clusters behind one queue: jobs go where their accelerator is, and `why` tells of each
cluster why it was taken or not."""

from __future__ import annotations

from typing import Any

import pytest

from quarterdeck.controller.loop import Controller
from tests.integration.api.conftest import Platform, command

MACHINES = {"east": "H100", "west": "A100"}


def beat(platform: Platform, cluster: str, machines: int = 1) -> None:
    nodes = [
        {"node_id": f"{cluster}-{i}", "host": f"{cluster}-{i}", "address": "10.0.0.1", "slots": 8,
         "accelerator": MACHINES[cluster], "cpus": 8, "memory": 1 << 36}
        for i in range(machines)
    ]  # fmt: skip
    body = {"agent_id": cluster, "started_at": "2026-01-01T00:00:00Z", "nodes": nodes}
    answer = platform.agent.post(f"/agents/{cluster}/beat", body)
    assert answer.status_code == 200, answer.text


@pytest.fixture
def two(platform: Platform) -> Platform:
    for cluster in MACHINES:
        beat(platform, cluster)
    return platform


def submit(
    platform: Platform, name: str, ranks: int, model: str | None = None, **more: Any
) -> None:
    if model:
        more["resources"] = {"accelerator": model}
    answer = platform.admin.post("/jobs", command(name, ranks=ranks, **more))
    assert answer.status_code == 201, answer.text


def look(platform: Platform, name: str) -> tuple[str, list[str]]:
    """The job's phase and what is said of clusters, after the controller had its turns."""
    controller = Controller(platform.database)
    for _ in range(3):
        controller.tick()
    why = platform.admin.get(f"/jobs/{name}/why").json()
    return why["phase"], [fact for fact in why["facts"] if fact.startswith("cluster ")]


def test_the_model_decides(two: Platform) -> None:
    submit(two, "new", 4, "H100")
    assert look(two, "new") == ("starting", [
        "cluster east: taken: 4 ranks on 1 machine (H100)",
        "cluster west: it has no H100, only A100",
    ])  # fmt: skip
    submit(two, "old", 8, "a100")
    assert look(two, "old") == ("starting", [
        "cluster west: taken: 8 ranks on 1 machine (A100)",
        "cluster east: it has no a100, only H100",
    ])  # fmt: skip


def test_any_model_takes_the_first_cluster_with_room(two: Platform) -> None:
    submit(two, "first", 6)
    assert look(two, "first")[1] == [
        "cluster east: taken: 6 ranks on 1 machine (H100)",
        "cluster west: it has room too",
    ]
    submit(two, "second", 4)
    assert look(two, "second")[1] == [
        "cluster west: taken: 4 ranks on 1 machine (A100)",
        "cluster east: 2 of 8 H100 are free, it needs 4",
    ]


def test_one_that_waits_hears_of_every_cluster(two: Platform) -> None:
    submit(two, "holder", 4, "H100")
    submit(two, "waits", 6, "H100")
    assert look(two, "waits") == ("queued", [
        "cluster east: 4 of 8 H100 are free, it needs 6",
        "cluster west: it has no H100, only A100",
    ])  # fmt: skip
    submit(two, "behind", 2, "H100")
    assert look(two, "behind")[1][0] == (
        "cluster east: it has room, but job/waits waits ahead of it there"
    )
    beat(two, "west", 2)
    submit(two, "wide", 16)
    assert look(two, "wide") == ("starting", [
        "cluster west: taken: 16 ranks on 2 machines (A100)",
        "cluster east: it has 8 H100 in all, not enough for 16",
    ])  # fmt: skip


def test_machines_that_take_no_work(two: Platform) -> None:
    assert two.admin.post("/nodes/east-0/cordon").status_code == 200
    submit(two, "any", 1)
    assert look(two, "any")[1] == [
        "cluster west: taken: 1 rank on 1 machine (A100)",
        "cluster east: it has no machine that takes work now",
    ]


def test_who_names_a_cluster_had_no_choice(two: Platform) -> None:
    submit(two, "here", 1, cluster="west")
    assert look(two, "here") == ("starting", [])
