"""Gangs whose roles have different accelerators over REST: checked, counted, shown."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from quarterdeck.controller.loop import Controller
from quarterdeck.store.tables import JobRow
from tests.integration.api.conftest import Platform, agent_beat, paths, problem


def gang(name: str = "rl", **accelerators: Any) -> dict[str, Any]:
    roles = {
        role: {"ranks": ranks, "command": "true", "resources": {"accelerator": accelerator}}
        for role, (ranks, accelerator) in accelerators.items()
    }
    return {"kind": "command", "name": name, "roles": roles}


def machines(cluster: str = "a", **models: tuple[str, int]) -> dict[str, Any]:
    beat = agent_beat()
    beat["nodes"] = [
        {"node_id": f"{cluster}-{host}", "host": host, "address": host, "slots": slots,
         "accelerator": accelerator, "cpus": 8, "memory": 2**30}
        for host, (accelerator, slots) in models.items()
    ]  # fmt: skip
    return beat


@pytest.fixture
def mixed(platform: Platform) -> Platform:
    """A cluster of two H100s, four L4s and a CPU slot, and one of many H100s."""
    beat = machines("a", h=("H100", 2), l=("L4", 4), c=("cpu", 1))
    platform.agent.post("/agents/a/beat", beat)
    platform.agent.post("/agents/b/beat", {**machines("b", h=("H100", 64)), "agent_id": "other"})
    return platform


def apply(platform: Platform, document: dict[str, Any], **wishes: Any) -> Any:
    return platform.admin.post("/apply", {"documents": [document], **wishes})


def test_a_gang_is_placed_explained_and_shown(mixed: Platform) -> None:
    document = gang(trainer=(2, "h100"), rollout=(3, "L4"), driver=(1, "cpu"))
    answer = apply(mixed, document)
    assert answer.status_code == 200, answer.text
    assert answer.json()["results"][0]["message"] == "", "nothing is missing"
    assert apply(mixed, {**document, "name": "next"}).status_code == 200
    controller = Controller(mixed.database)
    for _ in range(2):
        controller.tick()
    (run,) = mixed.admin.get("/jobs/rl/runs").json()["items"]
    assert [(place["role"], place["accelerator"]) for place in run["placements"]] == [
        *[("trainer", "H100")] * 2, *[("rollout", "L4")] * 3, ("driver", "cpu"),
    ]  # fmt: skip
    why = mixed.admin.get("/jobs/next/why").json()
    assert why["message"] == (
        "needs 2 H100 for trainer (0 free), 3 L4 for rollout (1 free), 1 cpu slots for driver "
        "(0 free) in cluster a"
    )
    applied = apply(mixed, document).json()["results"][0]
    assert applied["action"] == "unchanged"


def test_an_accelerator_that_nobody_knows_is_refused_with_the_roles_name(mixed: Platform) -> None:
    document = gang(trainer=(1, "H1OO"), rollout=(1, "L4"), reward=(1, "my-own-chip"))
    refused = apply(mixed, document)
    assert (refused.status_code, problem(refused)) == (422, "invalid_document")
    assert paths(refused) == [
        "documents[0].roles.trainer.resources.accelerator",
        "documents[0].roles.reward.resources.accelerator",
    ]
    assert "no living machine has it" in refused.json()["errors"][0]["message"]
    assert "did you mean H100" in refused.json()["errors"][0]["message"]
    assert apply(mixed, document, force=True).status_code == 200


def test_a_living_machine_is_enough_to_know_an_accelerator(platform: Platform) -> None:
    document = gang(a=(1, "my-own-chip"), b=(1, "L4"))
    assert apply(platform, document).status_code == 422
    platform.agent.post("/agents/a/beat", machines("a", x=("My-Own-Chip", 1), l=("L4", 1)))
    assert apply(platform, document).status_code == 200


@pytest.mark.parametrize(
    ("roles", "fields", "note"),
    [
        ({"t": (3, "H100"), "r": (4, "L4")}, {},
         "waits: needs 3 H100 for t, cluster a has 2 in all"),
        ({"t": (2, "H100"), "r": (4, "L4"), "q": (1, "l4")}, {},
         "waits: needs 4 L4 for r and 1 l4 for q, cluster a has 4 in all"),
        ({"t": (2, "H100"), "r": (1, "T4")}, {},
         "waits: needs 1 T4 for r, cluster a has 0 in all"),
        ({"t": (2, "H100"), "r": (1, "L4")}, {"cluster": "b"},
         "waits: needs 1 L4 for r, cluster b has 0 in all"),
        ({"t": (32, "H100"), "r": (32, "H100")}, {}, ""),
        ({"t": (2, "H100"), "r": (4, "L4")}, {"cluster": "z"},
         "waits for cluster 'z' to connect"),
    ],
)  # fmt: skip
def test_what_no_cluster_has_is_said_at_once(
    mixed: Platform, roles: Any, fields: dict[str, Any], note: str
) -> None:
    for wishes in ({"dry_run": True}, {}):
        answer = apply(mixed, {**gang(**roles), **fields}, **wishes)
        assert answer.json()["results"][0]["message"] == note


def test_all_roles_or_none_name_an_accelerator(mixed: Platform) -> None:
    document = gang(trainer=(1, "H100"), driver=(1, "cpu"))
    del document["roles"]["driver"]["resources"]
    refused = apply(mixed, document)
    assert (refused.status_code, paths(refused)) == (422, ["documents[0].roles"])
    assert "driver.resources.accelerator is missing" in refused.json()["detail"]
    assert apply(mixed, {**document, "resources": {"accelerator": "cpu"}}).status_code == 200


def test_a_gang_from_before_roles_had_accelerators_is_the_same_job(platform: Platform) -> None:
    role = {"command": "true", "resources": {"cpus": 1}}
    document = {"kind": "command", "name": "rl", "roles": {"trainer": role}}
    assert apply(platform, document).status_code == 200
    with platform.database.write() as session:
        row = session.scalars(select(JobRow)).one()
        resources = {"cpus": 1.0, "memory": None}
        trainer = {**row.spec["roles"]["trainer"], "resources": resources}
        row.spec = {**row.spec, "roles": {"trainer": trainer}}
        row.spec_digest = "of an older version"
    assert apply(platform, document).json()["results"][0]["action"] == "unchanged"
    changed = {**document, "roles": {"trainer": {**role, "command": "false"}}}
    assert problem(apply(platform, changed)) == "job_live"
