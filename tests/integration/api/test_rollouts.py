"""Rollouts over REST: seen, steered, undone; gateways' reports."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select, update

from quarterdeck.controller.loop import Controller
from quarterdeck.store.columns import database_now
from quarterdeck.store.tables import GatewayRow, ServiceRow
from tests.integration.api.conftest import Platform, agent_beat, problem

SERVICE: dict[str, Any] = {
    "kind": "service", "name": "s", "model": "file:///model", "replicas": 1,
}  # fmt: skip
READY = {"url": "http://10.0.0.1:9000", "probed": True, "models": ["s"]}


def apply(platform: Platform, **fields: Any) -> dict[str, Any]:
    answer = platform.admin.post("/apply", {"documents": [{**SERVICE, **fields}]})
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()["results"][0]
    return result


def settle(platform: Platform, controller: Controller) -> None:
    """Controllers look, and every replica that is started becomes ready."""
    for _ in range(3):
        controller.tick()
        for start in platform.agent.get("/agents/a/work").json()["start"]:
            claim = {"epoch": start["epoch"], "agent_id": "agent-1"}
            order = platform.agent.post(f"/runs/{start['run_id']}/claim", claim)
            beat = {
                "epoch": start["epoch"], "seq": 1, "sent_at": "2026-01-01T00:00:00Z",
                "reported_phase": "ready", "endpoint": READY,
            }  # fmt: skip
            run = platform.admin.with_key(order.json()["run_key"])
            assert run.post(f"/runs/{start['run_id']}/beat", beat).status_code == 200
    controller.tick()


@pytest.fixture
def served(platform: Platform) -> Controller:
    """A service whose first revision is ready."""
    platform.agent.post("/agents/a/beat", agent_beat())
    apply(platform)
    controller = Controller(platform.database)
    settle(platform, controller)
    assert platform.admin.get("/services/s").json()["phase"] == "ready"
    return controller


def report(platform: Platform, seq: int, **fields: Any) -> Any:
    revision = {"project": "default", "service": "s", "revision": 1, **fields}
    return platform.agent.post(
        "/gateway/observations", {"gateway": "g", "seq": seq, "revisions": [revision]}
    )


def test_the_state_of_a_rollout_and_who_may_steer_it(
    platform: Platform, served: Controller
) -> None:
    status = platform.admin.get("/services/s/rollout").json()
    assert (status["phase"], status["target"], status["stable"]) == ("finished", 1, 1)
    assert problem(platform.admin.post("/services/s/rollout/pause")) == "rollout_state"
    assert problem(platform.admin.post("/services/s/rollout/resume")) == "rollout_state"
    assert problem(platform.admin.post("/services/s/rollout/undo")) == "rollout_state"
    assert apply(platform, engine_args={"max_batch": 2})["message"] == "revision 2"
    viewer = platform.key("viewer")
    assert problem(viewer.post("/services/s/rollout/pause")) == "access_denied"
    served.tick()
    assert platform.admin.post("/services/s/rollout/pause").status_code == 200
    settle(platform, served)
    status = viewer.get("/services/s/rollout").json()
    assert (status["phase"], status["reason"]) == ("paused", "PausedByHand")
    shown = [(one["revision"], one["ready"], one["weight"]) for one in status["revisions"]]
    assert shown == [(1, 1, 0.5), (2, 1, 0.5)]
    assert platform.admin.post("/services/s/rollout/resume").status_code == 200
    settle(platform, served)
    assert platform.admin.get("/services/s/rollout").json()["phase"] == "finished"
    assert problem(platform.admin.post("/services/s/rollout/stop")) == "invalid_parameter"


def test_undo_repeats_a_revision_under_a_new_number(platform: Platform, served: Controller) -> None:
    apply(platform, engine_args={"max_batch": 2})
    settle(platform, served)
    unknown = platform.admin.post("/services/s/rollout/undo", {"to": 7})
    assert problem(unknown) == "not_found"
    assert problem(platform.admin.post("/services/s/rollout/undo", {"to": 2})) == "rollout_state"
    undone = platform.admin.post("/services/s/rollout/undo").json()
    assert (undone["revision"], undone["of_revision"]) == (3, 1)
    revisions = platform.admin.get("/services/s/revisions").json()["items"]
    notes = [(one["revision"], one["note"], one["changed"]) for one in revisions]
    assert notes == [
        (3, "undo to revision 1", ["engine_args"]), (2, "applied", ["engine_args"]),
        (1, "applied", []),
    ]  # fmt: skip
    assert {one["actor"] for one in revisions} == {"key/home"}
    assert platform.admin.get("/services/s").json()["spec"]["engine_args"] == {}


def test_what_changes_no_replica_makes_no_revision(platform: Platform, served: Controller) -> None:
    canary = {"strategy": "canary", "steps": [{"weight": "10%", "pause": "manual"}]}
    result = apply(platform, rollout=canary, priority=3, labels={"team": "a"})
    assert (result["action"], result["message"]) == ("updated", "revision 1")
    apply(platform, rollout=canary, engine_args={"max_batch": 2})
    settle(platform, served)
    status = platform.admin.get("/services/s/rollout").json()
    assert (status["phase"], status["reason"]) == ("paused", "WaitingForResume")
    traffic = platform.agent.get("/gateway/snapshot").json()["services"][0]["traffic"]
    assert traffic == [{"revision": 1, "weight": 0.9}, {"revision": 2, "weight": 0.1}]


def test_fields_that_came_after_a_service_do_not_roll_it(platform: Platform) -> None:
    apply(platform)
    with platform.database.write() as session:
        row = session.scalars(select(ServiceRow)).one()
        row.spec = {
            name: row.spec[name] for name in ("kind", "name", "project", "model", "replicas")
        }
    assert apply(platform)["action"] == "unchanged"
    assert apply(platform, replicas=2)["message"] == "revision 1"
    assert apply(platform, engine_args={"max_batch": 2})["message"] == "revision 2"


def test_reports_of_gateways_count_once_and_are_bounded(
    platform: Platform, served: Controller
) -> None:
    for seq in (1, 1, 2):
        assert report(platform, seq, requests=10, errors=1, ttft={"3": 9}).status_code == 200
    assert report(platform, 3, service="gone", requests=10).status_code == 200
    (line,) = platform.admin.get("/services/s/rollout").json()["revisions"]
    assert (line["requests"], line["error_rate"]) == (20, 0.1)
    assert 0.05 < line["ttft_p95"] <= 0.1
    assert problem(report(platform, 4, requests=-1)) == "invalid_document"
    assert problem(report(platform, 5, ttft={"900": 1})) == "invalid_document"
    operator = platform.key("operator")
    body = {"gateway": "g", "seq": 9, "revisions": []}
    assert problem(operator.post("/gateway/observations", body)) == "access_denied"


def test_gateways_share_the_limits_of_keys_by_demand(platform: Platform) -> None:
    busy, idle = "a" * 64, "b" * 64

    def tell(gateway: str, seq: int, **demand: float) -> Any:
        named = {"busy": busy, "idle": idle}
        body = {
            "gateway": gateway, "seq": seq,
            "demand": {named[name]: value for name, value in demand.items()},
        }  # fmt: skip
        return platform.agent.post("/gateway/observations", body).json()

    assert tell("g1", 1, busy=900.0) == {"gateways": 1, "shares": {busy: 1.0}}
    second = tell("g2", 1, busy=100.0)
    assert second["gateways"] == 2 and second["shares"][busy] == pytest.approx(0.14)
    first = tell("g1", 2, busy=900.0, idle=1.0)
    assert first["shares"] == {busy: pytest.approx(0.86), idle: pytest.approx(0.95)}
    late = tell("g1", 1, busy=100.0)
    assert late["shares"] == first["shares"], "what it said before is not news"
    with platform.database.write() as session:
        session.execute(
            update(GatewayRow).where(GatewayRow.name == "g1").values(seen_at=database_now(-11))
        )
    assert tell("g2", 2, busy=100.0) == {"gateways": 1, "shares": {busy: 1.0}}
