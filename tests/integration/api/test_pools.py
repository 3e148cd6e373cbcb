"""What the api tells of pools, and that nobody is refused for machines that may still come."""

from __future__ import annotations

from typing import Any

import pytest

from quarterdeck.store.columns import database_now
from quarterdeck.store.pools import Declared, declare_pools
from quarterdeck.store.tables import PoolRow

GROUP = {
    "name": "h100", "accelerator": "H100", "slots": 8, "cpus": None, "memory": None,
    "min_replicas": 0, "max_replicas": 4, "spot": False, "labels": {}, "idle_after": 600.0,
}  # fmt: skip


@pytest.fixture
def pooled(platform: Any) -> Any:
    """An api that knows a pool of four machines with eight H100, none of which is there."""
    with platform.database.write() as session:
        declare_pools(session, [Declared("gpu", "ml", "quarterdeck-gpu", [GROUP])])
        row = session.get_one(PoolRow, "gpu")
        row.looked_at = database_now()
        row.sizes = {
            "h100": {
                "before": 0, "wanted": 1, "here": 0, "coming": 1, "room": 3, "joined": 0,
                "constraint": "demand", "bound_by": "1 machine for job/x",
                "trouble": [{"reason": "Unschedulable", "message": "0/4 nodes", "pods": ["p"]}],
            }
        }  # fmt: skip
    return platform


def submit(platform: Any, **fields: Any) -> Any:
    document = {"kind": "command", "name": "x", "command": "true", **fields}
    answer = platform.admin.post("/jobs", document)
    assert answer.status_code == 201, answer.text
    return answer.json()


@pytest.mark.parametrize("where", [{}, {"cluster": "gpu"}, {"resources": {"accelerator": "H100"}}])
def test_a_job_is_taken_before_any_machine_is_there(pooled: Any, where: dict[str, Any]) -> None:
    taken = submit(pooled, ranks=32, **where)
    assert "waits for" not in str(taken.get("message"))


def test_a_training_is_planned_for_machines_that_may_come(pooled: Any) -> None:
    """Small CPU machines elsewhere must not make the planner refuse what the pool could run."""
    node = {"node_id": "n1", "host": "n1", "address": "10.0.0.1", "slots": 2, "cpus": 2,
            "memory": 1 << 30}  # fmt: skip
    beat = {"agent_id": "agent-1", "started_at": "2026-01-01T00:00:00Z", "nodes": [node]}
    pooled.agent.post("/agents/small/beat", beat)
    document = {
        "kind": "pretrain", "name": "big", "datasets": "file:///data",
        "architecture": {
            "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24,
            "num_attention_heads": 16, "vocab_size": 32000, "max_position_embeddings": 1024,
        },
        "training": {"sequence_length": 1024, "global_batch_size": 64, "steps": 10},
        "parallelism": {"data": 8},
    }  # fmt: skip
    answer = pooled.admin.post("/jobs", document)
    assert answer.status_code == 201, answer.text
    with pooled.database.write() as session:
        session.delete(session.get_one(PoolRow, "gpu"))
    answer = pooled.admin.post("/jobs", {**document, "name": "again"})
    assert answer.json()["type"] == "/problems/does_not_fit"


def test_the_pool_shows_on_its_cluster(pooled: Any) -> None:
    beat = {"agent_id": "agent-1", "started_at": "2026-01-01T00:00:00Z", "nodes": []}
    assert pooled.agent.post("/agents/gpu/beat", beat).status_code == 200
    shown = pooled.admin.get("/clusters/gpu").json()["pool"]
    assert shown["object"] == "quarterdeck-gpu"
    (group,) = shown["groups"]
    assert (group["wanted"], group["here"], group["max_replicas"]) == (1, 0, 4)
    assert group["bound_by"] == "1 machine for job/x"
    assert group["trouble"][0]["reason"] == "Unschedulable"
    (listed,) = pooled.admin.get("/clusters").json()["items"]
    assert listed["pool"] == shown
