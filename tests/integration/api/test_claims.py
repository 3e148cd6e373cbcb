"""Claims that cannot be answered: a secret that went, a master key that changed, a foreign key."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select

from quarterdeck.controller.loop import Controller
from quarterdeck.store.tables import KeyRow, RunRow
from tests.integration.api.conftest import Asker, Platform, agent_beat, command, problem


def placed(platform: Platform) -> dict[str, Any]:
    """The run to start of a job that names a secret."""
    platform.admin.put("/secrets/TOKEN", {"value": "hunter2"})
    platform.agent.post("/agents/a/beat", agent_beat())
    assert platform.admin.post("/jobs", command("a", secrets=["TOKEN"])).status_code == 201
    for _ in range(4):
        Controller(platform.database).tick()
    found: dict[str, Any] = platform.agent.get("/agents/a/work").json()["start"][0]
    return found


def claim(agent: Asker, start: dict[str, Any]) -> Any:
    body = {"epoch": start["epoch"], "agent_id": "agent-1"}
    return agent.post(f"/runs/{start['run_id']}/claim", body)


def nothing_was_claimed(platform: Platform) -> None:
    with platform.database.read() as session:
        assert session.scalars(select(RunRow.claimed_by)).all() == [None]
        assert session.scalars(select(KeyRow).where(KeyRow.access == "run")).all() == []


def test_a_secret_that_was_deleted_holds_its_job_until_it_is_back(platform: Platform) -> None:
    start = placed(platform)
    platform.admin.delete("/secrets/TOKEN")
    answer = claim(platform.agent, start)
    assert (answer.status_code, problem(answer)) == (409, "secret_missing"), answer.text
    assert "secret TOKEN does not exist in project default" in answer.json()["detail"]
    nothing_was_claimed(platform)
    controller = Controller(platform.database)
    for _ in range(3):
        controller.tick()
    job = platform.admin.get("/jobs/a").json()
    assert (job["phase"], job["reason"]) == ("queued", "SecretMissing"), job
    assert "quarterdeck secrets set TOKEN" in job["message"] and job["attempts"] == 1
    run = platform.admin.get(f"/runs/{start['run_id']}").json()
    assert (run["phase"], run["reason"]) == ("cancelled", "SecretMissing")
    # What waits for a secret takes nobody's place.
    platform.admin.post("/jobs", command("b", ranks=8))
    for _ in range(3):
        controller.tick()
    assert platform.admin.get("/jobs/b").json()["phase"] == "starting"
    platform.admin.post("/jobs/b/cancel")
    platform.admin.put("/secrets/TOKEN", {"value": "again"})
    for _ in range(3):
        controller.tick()
    again = platform.agent.get("/agents/a/work").json()["start"][0]
    assert claim(platform.agent, again).json()["secrets"] == {"TOKEN": "again"}


def test_another_master_key_fails_the_job_and_says_why(
    open_api: Callable[..., Platform],
) -> None:
    before = open_api()
    start = placed(before)
    headers = {"Idempotency-Key": "one"}
    assert before.admin.post("/jobs", command("x"), headers=headers).status_code == 201
    key = base64.urlsafe_b64encode(b"n" * 32).decode()
    after = open_api(master_key=key)
    answer = claim(after.agent, start)
    assert (answer.status_code, problem(answer)) == (500, "wrong_master_key"), answer.text
    assert "secret TOKEN" in answer.json()["detail"] and "set" in answer.json()["detail"]
    nothing_was_claimed(after)
    assert problem(after.agent.post("/clusters/a/join")) == "wrong_master_key"
    repeated = Asker(after.http, before.admin.key).post("/jobs", command("x"), headers=headers)
    assert problem(repeated) == "wrong_master_key"
    controller = Controller(after.database)
    for _ in range(3):
        controller.tick()
    job = after.admin.get("/jobs/a").json()
    assert (job["phase"], job["reason"]) == ("failed", "SecretUnreadable")
    assert "secret TOKEN" in job["message"]
    assert job["attempts"] == 1, "it is not tried again and again"
    # The remedy: set it again, retry.
    after.admin.put("/secrets/TOKEN", {"value": "new"})
    after.admin.post("/jobs/a/retry")
    for _ in range(3):
        controller.tick()
    fresh = next(
        item
        for item in after.agent.get("/agents/a/work").json()["start"]
        if claim(after.agent, item).json()["secrets"] == {"TOKEN": "new"}
    )
    assert fresh["run_id"] != start["run_id"]


def test_an_agents_key_reaches_its_own_cluster_only(platform: Platform) -> None:
    start = placed(platform)
    body = {"name": "b", "access": "agent", "cluster": "b"}
    made = platform.admin.post("/keys", body).json()
    assert made["cluster"] == "b"
    other = platform.admin.with_key(made["key"])
    assert problem(other.post("/agents/a/beat", agent_beat())) == "access_denied"
    assert problem(other.get("/agents/a/work")) == "access_denied"
    assert problem(other.post("/clusters/a/join")) == "access_denied"
    assert problem(claim(other, start)) == "not_found"
    nothing_was_claimed(platform)
    assert other.post("/agents/b/beat", agent_beat(nodes=0)).status_code == 200
    own = platform.admin.post("/keys", {**body, "name": "a", "cluster": "a"}).json()
    assert claim(platform.admin.with_key(own["key"]), start).status_code == 200


@pytest.mark.parametrize("access", ["viewer", "operator", "admin"])
def test_a_persons_key_is_not_bound_to_a_cluster(platform: Platform, access: str) -> None:
    answer = platform.admin.post("/keys", {"name": "x", "access": access, "cluster": "a"})
    assert problem(answer) == "invalid_document"
