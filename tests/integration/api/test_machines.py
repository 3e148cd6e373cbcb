"""Agents and supervisors: beats, work, claims with a run's own key, and what people then see."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy import select, update

from quarterdeck.controller.loop import Controller
from quarterdeck.store.columns import database_now
from quarterdeck.store.fleet_watch import mark_silent
from quarterdeck.store.tables import KeyRow, NodeRow, RunRow, ServiceRow
from tests.integration.api.conftest import NOW, Asker, Platform, agent_beat, command, paths, problem


@pytest.fixture
def placed(platform: Platform) -> tuple[Platform, dict[str, Any]]:
    """A job with a secret, placed on a cluster by the real controller; its run to start."""
    platform.admin.put("/secrets/TOKEN", {"value": "hunter2"})
    platform.agent.post("/agents/a/beat", agent_beat())
    platform.admin.post("/jobs", command("a", ranks=2, secrets=[{"name": "TOKEN", "env": True}]))
    return platform, start_of(platform)


def start_of(platform: Platform) -> dict[str, Any]:
    """Let the controller work until the agent has something to start."""
    controller = Controller(platform.database)
    for _ in range(20):
        controller.tick()
        work = platform.agent.get("/agents/a/work").json()
        if work["start"]:
            found: dict[str, Any] = work["start"][0]
            return found
    raise AssertionError(platform.admin.get("/jobs").text)


def claim(platform: Platform, start: dict[str, Any], agent: str = "agent-1") -> Any:
    body = {"epoch": start["epoch"], "agent_id": agent}
    return platform.agent.post(f"/runs/{start['run_id']}/claim", body)


def beat(seq: int, epoch: int = 1, **fields: Any) -> dict[str, Any]:
    return {
        "epoch": epoch, "seq": seq, "sent_at": NOW.isoformat(), "reported_phase": "running",
        **fields,
    }  # fmt: skip


def test_a_run_is_claimed_once_with_secrets_and_a_key_of_its_own(
    placed: tuple[Platform, dict[str, Any]],
) -> None:
    platform, start = placed
    answer = claim(platform, start)
    assert answer.status_code == 200, answer.text
    order = answer.json()
    assert order["secrets"] == {"TOKEN": "hunter2"} and order["env_secrets"] == ["TOKEN"]
    assert order["api_url"] == "http://api.test" and len(order["placements"]) == 2
    second = claim(platform, start, "agent-2")
    assert (second.status_code, problem(second)) == (409, "already_claimed")
    stale = claim(platform, {**start, "epoch": 7})
    assert (stale.status_code, problem(stale)) == (409, "stale_epoch")
    with platform.database.read() as session:
        stored = session.scalars(select(KeyRow).where(KeyRow.access == "run")).one()
    assert order["run_key"] not in (stored.sha256, stored.prefix, stored.name)
    run = platform.admin.with_key(order["run_key"])
    for path in ("/jobs", "/whoami", "/gateway/snapshot", f"/runs/{start['run_id']}"):
        assert problem(run.get(path)) == "access_denied"
    assert problem(run.post("/runs/run-other/beat", beat(1))) == "access_denied"
    assert problem(platform.admin.post(f"/runs/{start['run_id']}/beat", beat(1))) == (
        "access_denied"
    )


def spoken(placed: tuple[Platform, dict[str, Any]]) -> tuple[Platform, Asker, str]:
    """Claimed, and one beat with everything was sent."""
    platform, start = placed
    run = platform.admin.with_key(claim(platform, start).json()["run_key"])
    path = f"/runs/{start['run_id']}/beat"
    body = beat(
        1,
        step=2,
        steps_total=10,
        metrics=[
            {"step": step, "values": {"loss": 3.0 - step, "lr": 0.1}, "at": NOW.isoformat()}
            for step in (1, 2)
        ],
        logs=[
            {"rank": rank, "seq": 1, "lines": [[1.0, f"r{rank} one"], [2.0, f"r{rank} two"]]}
            for rank in (0, 1)
        ],
        checkpoints=[{"step": 2, "epoch": 1, "uri": "file:///c", "files": []}],
        outputs=[{"kind": "model", "name": "m", "digest": "d", "uri": "file:///m"}],
        productive_seconds=5.0,
        held_seconds=10.0,
    )
    answer = run.post(path, body)
    assert answer.json() == {
        "order": "continue", "deadline_seconds": 30.0, "reason": "", "acked_seq": 1,
    }  # fmt: skip
    assert run.post(path, body).json()["acked_seq"] == 1
    return platform, run, path


def test_what_a_run_says_is_seen_by_people_once(placed: tuple[Platform, dict[str, Any]]) -> None:
    platform, run, path = spoken(placed)
    assert problem(run.post(path, beat(2, epoch=2))) == "stale_epoch"
    admin = platform.admin
    job = admin.get("/jobs/a").json()
    assert job["progress"]["step"] == 2 and job["progress"]["goodput"] == 0.5
    books = admin.get("/jobs/a/goodput").json()
    assert books["accounts"] | {"held": books["held_seconds"], "share": books["goodput"]} == {
        "productive": 5.0, "checkpoint": 0.0, "restart": 0.0, "stalled": 0.0, "starting": 5.0,
        "held": 10.0, "share": 0.5,
    }  # fmt: skip
    assert books["incidents"] == [] and books["attempts"] == 1
    fleet = admin.get("/goodput", params={"since": "1h"}).json()
    assert [one["name"] for one in fleet["jobs"]] == ["a"] and fleet["held_seconds"] == 10.0
    assert admin.get("/goodput", params={"cluster": "elsewhere"}).json()["jobs"] == []
    assert problem(admin.get("/goodput", params={"since": "long ago"})) == "invalid_parameter"
    text = platform.http.get("/metrics").text
    assert 'quarterdeck_rank_seconds{account="starting",cluster="a"} 5.0' in text
    assert job["outputs"] == ["model/m@1"]
    metrics = admin.get("/jobs/a/metrics", params={"after_step": 1, "keys": "loss"}).json()
    assert [(row["step"], row["values"]) for row in metrics["items"]] == [(2, {"loss": 1.0})]
    lines = [line["line"] for line in admin.get("/jobs/a/logs").json()["items"]]
    assert lines == ["r0 one", "r0 two", "r1 one", "r1 two"]
    paged = admin.get("/jobs/a/logs", params={"limit": 1, "rank": 1}).json()
    rest = admin.get("/jobs/a/logs", params={"cursor": paged["next_cursor"], "rank": 1}).json()
    assert [line["line"] for line in (*paged["items"], *rest["items"])] == ["r1 one", "r1 two"]
    tail = admin.get("/jobs/a/logs", params={"tail": 3}).json()["items"]
    assert [line["line"] for line in tail] == ["r0 two", "r1 one", "r1 two"]
    since = admin.get("/jobs/a/logs", params={"since": "1970-01-01T00:00:02Z"}).json()["items"]
    assert [line["line"] for line in since] == ["r0 two", "r1 two"]
    assert problem(admin.get("/jobs/a/logs", params={"since": "soon"})) == "invalid_parameter"
    found = admin.get("/checkpoints", params={"job": "a"}).json()["items"]
    assert [(one["step"], one["state"]) for one in found] == [(2, "registered")]
    assert admin.get("/jobs/a/checkpoints").json()["items"] == found
    assert admin.get(f"/checkpoints/{found[0]['id']}").json() == found[0]
    runs = admin.get("/jobs/a/runs").json()["items"]
    assert [(one["epoch"], one["step"]) for one in runs] == [(1, 2)]
    assert admin.get("/runs").json()["items"] == runs


def test_aliases_move_between_versions(placed: tuple[Platform, dict[str, Any]]) -> None:
    platform, _, _ = spoken(placed)
    admin = platform.admin
    assert admin.put("/models/m/aliases/prod", {"version": 1}).json()["aliases"] == ["prod"]
    assert admin.get("/models/m/versions/prod").json()["version"] == 1
    assert admin.get("/models/m").json()["items"][0]["job_id"] is not None
    assert problem(admin.put("/models/m/aliases/prod", {"version": 9})) == "not_found"
    assert problem(admin.get("/models/m/versions/next")) == "not_found"
    assert problem(admin.put("/models/m/aliases/1", {"version": 1})) == "invalid_parameter"
    assert admin.get("/datasets").json()["items"] == []


def test_a_metric_that_is_no_number_is_left_out(placed: tuple[Platform, dict[str, Any]]) -> None:
    from quarterdeck.store.tables import JobRow, StepMetricsRow

    platform, _, _ = spoken(placed)
    with platform.database.write() as session:
        session.execute(
            update(StepMetricsRow)
            .where(StepMetricsRow.step == 2)
            .values(values={"loss": float("nan"), "lr": 0.1})
        )
        session.execute(update(JobRow).values(loss=float("nan")))
    rows = platform.admin.get("/jobs/a/metrics").json()["items"]
    assert rows[-1]["values"] == {"lr": 0.1}
    assert platform.admin.get("/jobs/a").json()["progress"]["loss"] is None


def test_an_older_agent_is_told_to_stop(platform: Platform) -> None:
    platform.agent.post("/agents/a/beat", agent_beat())
    older = agent_beat(agent_id="agent-0", started_at="2025-01-01T00:00:00Z")
    answer = platform.agent.post("/agents/a/beat", older)
    assert (answer.status_code, problem(answer)) == (409, "superseded_agent")


def test_an_agent_that_does_not_serve_the_cluster_claims_nothing(
    placed: tuple[Platform, dict[str, Any]],
) -> None:
    platform, start = placed
    refused = claim(platform, start, "agent-0")
    assert (refused.status_code, problem(refused)) == (409, "superseded_agent")
    assert "hunter2" not in refused.text
    assert claim(platform, start).status_code == 200


def test_machines_are_seen_joined_and_cordoned(platform: Platform) -> None:
    platform.agent.post("/agents/a/beat", agent_beat(nodes=2))
    admin = platform.admin
    cluster = admin.get("/clusters/a").json()
    assert (cluster["nodes"], cluster["slots"], cluster["slots_free"]) == (2, 16, 16)
    assert admin.get("/clusters").json()["items"] == [cluster]
    assert admin.post("/nodes/host-1/cordon").json()["slots_free"] == 0
    assert admin.get("/clusters/a").json()["slots_free"] == 8
    assert admin.post("/nodes/node1/uncordon").json()["cordoned"] is False
    nodes = admin.get("/nodes", params={"cluster": "a"}).json()["items"]
    assert [node["host"] for node in nodes] == ["host-1", "host-2"]
    ticket = platform.agent.post("/clusters/a/join").json()
    address = {"cluster": "a", "address": "10.0.0.1:6379", "ray_token": "ray-token"}
    assert ticket == {**address, "silent": False, "versions": {}}
    with platform.database.write() as session:
        assert mark_silent(session, -60.0) == ["a"]
    silent = platform.agent.post("/clusters/a/join").json()
    assert silent == {**address, "silent": True, "versions": {}}
    assert problem(platform.key("operator").post("/clusters/a/join")) == "access_denied"


def test_a_machine_is_confirmed_dead_by_an_operator(
    placed: tuple[Platform, dict[str, Any]],
) -> None:
    platform, start = placed
    claim(platform, start)
    path = "/nodes/node1/confirm-dead"
    assert problem(platform.key("viewer").post(path, {"reason": "x"})) == "access_denied"
    operator = platform.key("operator")
    assert problem(operator.post(path, {"reason": ""})) == "invalid_document"
    refused = operator.post(path, {"reason": "it burnt"})
    assert (refused.status_code, problem(refused)) == (409, "node_alive")
    assert platform.admin.get("/nodes/node1").json()["phase"] == "alive"
    done = operator.post(path, {"reason": "it burnt", "force": True}).json()
    assert (done["phase"], done["confirmed_dead"]["reason"]) == ("dead", "it burnt")
    assert operator.post(path, {"reason": "again"}).json() == done
    Controller(platform.database).tick()
    run = platform.admin.get("/runs/" + start["run_id"]).json()
    assert (run["phase"], run["failure"]["blame"]) == ("lost", "node")
    assert "it burnt" in platform.admin.get("/jobs/a/why").text


def test_quarantined_slots_show_on_their_machine(placed: tuple[Platform, dict[str, Any]]) -> None:
    platform, start = placed
    claim(platform, start)
    with platform.database.write() as session:
        session.execute(
            update(RunRow).values(quarantined=True, phase="lost", ended_at=database_now())
        )
        session.execute(update(NodeRow).values(phase="dead"))
    (node,) = platform.admin.get("/nodes").json()["items"]
    (held,) = node["quarantined_runs"]
    assert (held["run_id"], held["owner"], held["slots"]) == (start["run_id"], "job/a", 2)
    assert node["slots_free"] == 0


def test_a_long_poll_for_work_ends_when_there_is_some(platform: Platform) -> None:
    platform.agent.post("/agents/a/beat", agent_beat())
    answers: list[Any] = []
    waiting = threading.Thread(
        target=lambda: answers.append(
            platform.agent.get("/agents/a/work", params={"wait": 20}).json()
        )
    )
    waiting.start()
    platform.admin.post("/jobs", command("a"))
    controller = Controller(platform.database)
    while waiting.is_alive():
        controller.tick()
        waiting.join(0.05)
    assert len(answers[0]["start"]) == 1


def test_gateways_hear_of_services_and_keys(platform: Platform) -> None:
    first = platform.agent.get("/gateway/snapshot").json()
    assert [key["access"] for key in first["keys"]] == ["admin"]
    same = platform.agent.get("/gateway/snapshot", params={"after": first["version"], "wait": 0.1})
    assert same.json() == first
    answers: list[Any] = []
    waiting = threading.Thread(
        target=lambda: answers.append(
            platform.agent.get(
                "/gateway/snapshot", params={"after": first["version"], "wait": 20}
            ).json()
        )
    )
    waiting.start()
    platform.key("viewer")
    waiting.join()
    assert len(answers[0]["keys"]) == 2 and answers[0]["version"] != first["version"]


def test_gateways_hear_at_once_how_a_service_routes(platform: Platform) -> None:
    document: dict[str, Any] = {"kind": "service", "name": "s", "model": "file:///model"}
    platform.admin.post("/apply", {"documents": [document]})

    def told() -> dict[str, Any]:
        found: dict[str, Any] = platform.agent.get("/gateway/snapshot").json()["services"][0]
        return found["routing"]

    assert told()["policy"] == "power_of_two" and told()["session_header"] == "x-session-id"
    document["routing"] = {"policy": "session", "session_header": "X-Chat", "slow_start": "1m"}
    platform.admin.post("/apply", {"documents": [document]})
    assert told() == {
        "policy": "session", "session_header": "x-chat", "adapter_header": "x-adapter",
        "load_bound": 1.25, "prefix_threshold": 0.3, "imbalance": 64, "slow_start": 60.0,
    }  # fmt: skip
    assert platform.admin.get("/services/s").json()["revision"] == 1  # the same replicas
    wrongs = ({"policy": "least-in-flight"}, {"load_bound": 1}, {"session_header": "cookie"})
    for wrong in wrongs:
        answer = platform.admin.post("/apply", {"documents": [{**document, "routing": wrong}]})
        assert problem(answer) == "invalid_document"
        assert paths(answer) == [f"documents[0].routing.{next(iter(wrong))}"]
    with platform.database.write() as session:
        row = session.scalars(select(ServiceRow)).one()
        row.spec = {name: value for name, value in row.spec.items() if name != "routing"}
    assert told()["policy"] == "power_of_two"  # a spec from before there was a choice


def test_a_run_key_ends_after_its_grace(placed: tuple[Platform, dict[str, Any]]) -> None:
    platform, run, path = spoken(placed)
    with platform.database.write() as session:
        session.execute(
            update(KeyRow).where(KeyRow.access == "run").values(expires_at=database_now(-1))
        )
    assert problem(run.post(path, beat(2))) == "key_unknown"


def test_a_draining_replica_takes_no_traffic(platform: Platform) -> None:
    platform.agent.post("/agents/a/beat", agent_beat())
    document: dict[str, Any] = {"kind": "service", "name": "s", "model": "file:///model"}
    platform.admin.post("/apply", {"documents": [document]})
    start = start_of(platform)
    run = platform.admin.with_key(claim(platform, start).json()["run_key"])
    endpoint = {"url": "http://10.0.0.1:9000", "probed": True, "models": ["s"]}
    path = f"/runs/{start['run_id']}/beat"
    assert run.post(path, beat(1, reported_phase="ready", endpoint=endpoint)).status_code == 200
    controller = Controller(platform.database)
    for _ in range(20):
        controller.tick()
        service = platform.agent.get("/gateway/snapshot").json()["services"][0]
        if service["endpoints"] and service["endpoints"][0]["ready"]:
            break
    assert service["endpoints"] == [
        {"run_id": start["run_id"], "url": "http://10.0.0.1:9000", "ready": True,
         "draining": False, "weight": 1, "revision": 1}
    ]  # fmt: skip
    with platform.database.read() as session:
        cluster = session.scalars(select(RunRow)).one().cluster
    document["routing"] = {"policy": "weighted", "weights": {cluster: 3}}
    platform.admin.post("/apply", {"documents": [document]})
    told = platform.agent.get("/gateway/snapshot").json()["services"][0]
    assert [one["weight"] for one in told["endpoints"]] == [3]
    replica = platform.admin.get("/services/s").json()["replicas"][0]
    assert replica["url"] == "http://10.0.0.1:9000" and replica["node_id"] == "node1"
    assert platform.admin.delete("/services/s").status_code == 204
    endpoint = platform.agent.get("/gateway/snapshot").json()["services"][0]["endpoints"][0]
    assert (endpoint["ready"], endpoint["draining"]) == (False, True)
    with platform.database.read() as session:
        assert session.scalars(select(RunRow)).one().phase == "ready"


def test_gateways_are_told_how_a_service_treats_its_clients(platform: Platform) -> None:
    document = {
        "kind": "service", "name": "s", "model": "file:///model", "aliases": "gpt-x",
        "fallback": "small", "mirror": {"service": "next", "share": "10%"},
        "admission": {"max_waiting": 7, "max_wait": "5s"}, "timeouts": {"per_try": "20s"},
        "engine_args": {"max_batch_size": 4},
    }  # fmt: skip
    answer = platform.admin.post("/apply", {"documents": [document]})
    assert answer.status_code == 200, answer.text
    service = platform.agent.get("/gateway/snapshot").json()["services"][0]
    assert service["aliases"] == [{"name": "gpt-x", "weight": 1, "headers": {}}]
    assert service["fallback"] == "small" and service["mirror"] == {"service": "next", "share": 0.1}
    assert (service["concurrency"], service["max_waiting"], service["max_wait"]) == (8, 7, 5.0)
    assert (service["per_try"], service["between_tokens"]) == (20.0, 60.0)
    for field, wrong in (
        ("admission", {"max_waiting": -1}), ("aliases", [{"name": "a b"}]), ("mirror", {}),
        ("timeouts", {"total": "0s"}), ("fallback", "No Name"),
    ):  # fmt: skip
        refused = platform.admin.post("/apply", {"documents": [{**document, field: wrong}]})
        assert refused.status_code == 422 and field in refused.text
