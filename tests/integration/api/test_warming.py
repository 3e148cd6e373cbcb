"""Weights on nodes ahead: asked for by people, told of by agents."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from quarterdeck.store import warming
from quarterdeck.store.ids import new_id
from quarterdeck.store.tables import AssetVersionRow, ClusterRow, WarmingRow
from tests.integration.api.conftest import Platform, agent_beat, problem

DIGEST = "d" * 64
WEIGHTS = {"path": "model.safetensors", "size": 1000, "sha256": "e" * 64}
CONFIG = {"path": "config.json", "size": 24, "sha256": "f" * 64}


def publish(platform: Platform, name: str = "m", **columns: Any) -> str:
    """Put a version into the store, as a run's beat does."""
    values: dict[str, Any] = {"digest": DIGEST, "files": [CONFIG, WEIGHTS], **columns}
    with platform.database.write() as session:
        row = AssetVersionRow(
            id=new_id("ver"), kind="model", name=name, project="default", version=1,
            uri="s3://models/m", size=1024, **values,
        )  # fmt: skip
        session.add(row)
    return row.id


def beat(platform: Platform, nodes: int = 2, **fields: Any) -> list[dict[str, Any]]:
    """What the agent is told to warm after a beat."""
    answer = platform.agent.post("/agents/a/beat", agent_beat(nodes=nodes, **fields))
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["warm"]
    return found


def warm(platform: Platform, body: Any = None, name: str = "m") -> Any:
    return platform.admin.post(f"/models/{name}/versions/1/warm", body or {})


def state(platform: Platform) -> dict[str, dict[str, Any]]:
    answer = platform.admin.get("/models/m/versions/1/warm")
    assert answer.status_code == 200, answer.text
    return {node["node_id"]: node for node in answer.json()["nodes"]}


def events(platform: Platform, kind: str) -> list[dict[str, Any]]:
    found = platform.admin.get("/events").json()["items"]
    return [event for event in found if event["type"] == kind]


def report(asset: str, node: str, state: str, **fields: Any) -> dict[str, Any]:
    return {"asset_id": asset, "node_id": node, "state": state, **fields}


def test_a_version_is_wanted_told_of_and_there(platform: Platform) -> None:
    beat(platform)
    asset = publish(platform)
    answer = warm(platform)
    assert answer.status_code == 200, answer.text
    assert answer.json()["bytes"] == 1024
    assert [node["state"] for node in answer.json()["nodes"]] == ["waiting", "waiting"]
    assert "has not come to it" in answer.json()["nodes"][0]["message"]
    wanted = beat(platform)
    assert wanted == platform.agent.get("/agents/a/work").json()["warm"]
    assert [(one["asset_id"], one["node_id"], one["asked"]) for one in wanted] == [
        (asset, "node1", 1), (asset, "node2", 1),
    ]  # fmt: skip

    order = platform.agent.get(f"/agents/a/weights/{asset}").json()
    assert (order["model"]["digest"], order["model"]["uri"]) == (DIGEST, "s3://models/m")
    assert order["files"] == [CONFIG, WEIGHTS]

    moving = report(asset, "node1", "fetching", bytes_done=100, rate=50.0, seconds=2.0)
    done = report(asset, "node2", "ready", bytes_done=1024, seconds=3.5)
    left = beat(platform, warmed=[moving, done])
    assert [one["node_id"] for one in left] == ["node1"]
    nodes = state(platform)
    assert (nodes["node1"]["state"], nodes["node1"]["bytes_done"], nodes["node1"]["rate"]) == (
        "fetching", 100, 50.0,
    )  # fmt: skip
    assert nodes["node2"]["ended_at"] is not None
    beat(platform, warmed=[moving, done])  # repeated: nothing twice
    (event,) = events(platform, "model.warmed")
    assert event["message"] == "m@1 on node host-2 is there: 1,024 bytes in 3.5 s"
    (asked,) = events(platform, "model.warming")
    assert asked["actor"] == "key/home"
    failed = report(asset, "node1", "failed", message="needs 14.2 GB, 3.1 GB free")
    assert beat(platform, warmed=[failed]) == []
    assert state(platform)["node1"]["message"] == "needs 14.2 GB, 3.1 GB free"
    (event,) = events(platform, "model.warming_failed")
    assert event["message"] == "m@1 is not on node host-1: needs 14.2 GB, 3.1 GB free"
    assert platform.agent.get(f"/agents/a/weights/{asset}").status_code == 404


def test_asking_again_goes_on_or_begins_anew(platform: Platform) -> None:
    beat(platform)
    asset = publish(platform)
    warm(platform, {"nodes": ["node1"]})
    beat(platform, warmed=[report(asset, "node1", "fetching", bytes_done=7)])
    again = warm(platform, {"nodes": ["node1"]}).json()["nodes"]
    assert [(node["state"], node["bytes_done"]) for node in again] == [("fetching", 7)]
    assert len(events(platform, "model.warming")) == 1
    done = report(asset, "node1", "failed", message="no")
    beat(platform, warmed=[done])
    (anew,) = warm(platform, {"nodes": ["host-1", "node1"]}).json()["nodes"]
    assert (anew["state"], anew["bytes_done"]) == ("waiting", 0)
    # What is told of the first asking says nothing of the second.
    (wanted,) = beat(platform, warmed=[done])
    assert wanted["asked"] == 2
    assert beat(platform, warmed=[{**done, "asked": 2, "state": "ready", "found": True}]) == []
    assert state(platform)["node1"]["found"]
    (event,) = events(platform, "model.warmed")
    assert "was there already" in event["message"]


def test_a_node_that_dies_meanwhile_is_told(platform: Platform) -> None:
    beat(platform)
    publish(platform)
    warm(platform)
    assert [one["node_id"] for one in beat(platform, nodes=1)] == ["node1"]
    gone = state(platform)["node2"]
    assert gone["state"] == "gone" and "node host-2 died" in gone["message"]
    assert problem(warm(platform, {"nodes": ["node2"]})) == "node_gone"


def test_a_silent_agent_is_told(platform: Platform) -> None:
    beat(platform)
    publish(platform)
    warm(platform)
    with platform.database.write() as session:
        session.execute(update(ClusterRow).values(phase="silent"))
    assert "agent of cluster a is silent" in state(platform)["node1"]["message"]


@pytest.mark.parametrize(
    ("path", "body", "status", "name", "words"),
    [
        ("nothing/versions/1", {}, 404, "not_found", "model 'nothing@1'"),
        ("m/versions/2", {}, 404, "not_found", "m@2"),
        ("m/versions/prod", {}, 404, "not_found", "m@prod"),
        ("m/versions/1", {"nodes": ["elsewhere"]}, 404, "not_found", "node 'elsewhere'"),
        ("m/versions/1", {"cluster": "b"}, 404, "not_found", "cluster 'b'"),
        ("m/versions/1", {"cluster": "a", "nodes": ["node1"]}, 422, "invalid_document", "one of"),
        ("m/versions/1", {"node": "node1"}, 422, "invalid_document", "node"),
        ("bare/versions/1", {}, 422, "no_weights", "*.safetensors"),
        ("short/versions/1", {}, 422, "no_weights", "digest 'd'"),
    ],
)
def test_what_cannot_be_warmed_is_refused_with_its_reason(
    platform: Platform, path: str, body: Any, status: int, name: str, words: str
) -> None:
    beat(platform)
    publish(platform)
    publish(platform, "bare", files=[CONFIG])
    publish(platform, "short", digest="d")
    answer = platform.admin.post(f"/models/{path}/warm", body)
    assert (answer.status_code, problem(answer)) == (status, name)
    assert words in answer.json()["detail"]


def test_who_may_warm(platform: Platform) -> None:
    beat(platform)
    asset = publish(platform)
    viewer, operator = platform.key("viewer"), platform.key("operator")
    assert problem(viewer.post("/models/m/versions/1/warm", {})) == "access_denied"
    assert operator.post("/models/m/versions/1/warm", {}).status_code == 200
    assert viewer.get("/models/m/versions/1/warm").status_code == 200
    assert problem(operator.get(f"/agents/a/weights/{asset}")) == "access_denied"
    assert problem(platform.agent.get(f"/agents/b/weights/{asset}")) == "not_found"


def test_without_machines_there_is_nothing_to_warm(platform: Platform) -> None:
    publish(platform)
    assert problem(warm(platform)) == "node_gone"
    beat(platform)
    beat(platform, nodes=0)
    assert problem(warm(platform, {"cluster": "a"})) == "node_gone"


def test_what_is_wanted_is_bounded_and_forgotten_in_time(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warming, "MOST_LIVE", 2)
    beat(platform, nodes=3)
    asset = publish(platform)
    refused = warm(platform)
    assert problem(refused) == "warmings_full"
    assert state(platform) == {}
    warm(platform, {"nodes": ["node1", "node2"]})
    beat(platform, nodes=3, warmed=[report(asset, "node1", "ready")])
    with platform.database.write() as session:
        row = session.scalars(select(WarmingRow).where(WarmingRow.ended_at.is_not(None))).one()
        assert row.ended_at is not None
        row.ended_at -= timedelta(days=2)
    warm(platform, {"nodes": ["node3"]})
    assert sorted(state(platform)) == ["node2", "node3"]


def test_two_askers_at_once_want_it_once(
    open_api: Callable[..., Platform],
) -> None:
    platform = open_api()
    beat(platform)
    publish(platform)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: warm(platform).status_code, range(8)))
    assert answers == [200] * 8
    assert len(events(platform, "model.warming")) == 1
