"""Who may do what: keys, accesses, projects, secrets."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import select, update

from quarterdeck.store.columns import database_now
from quarterdeck.store.tables import EventRow, KeyRow, SecretRow
from tests.integration.api.conftest import Platform, agent_beat, command, problem


def test_without_a_valid_key_nothing_answers(platform: Platform) -> None:
    for key in (None, "qd_wrong", "x" * 5000):
        answer = platform.admin.with_key(key).get("/jobs")
        assert (answer.status_code, problem(answer)) == (401, "key_unknown")
        assert answer.headers["www-authenticate"] == "Bearer"
    basic = platform.http.get("/api/v1/jobs", headers={"Authorization": "Basic eDp5"})
    assert basic.status_code == 401


def test_access_grows_from_viewer_to_admin(platform: Platform) -> None:
    viewer, operator = platform.key("viewer"), platform.key("operator")
    assert viewer.get("/jobs").status_code == 200
    assert problem(viewer.post("/jobs", command("a"))) == "access_denied"
    assert operator.post("/jobs", command("a")).status_code == 201
    assert problem(viewer.post("/jobs/a/cancel")) == "access_denied"
    assert problem(operator.get("/keys")) == "access_denied"
    assert problem(operator.post("/nodes/x/cordon")) == "access_denied"
    assert viewer.get("/whoami").json()["access"] == "viewer"


def test_a_key_of_one_project_sees_and_changes_only_that(platform: Platform) -> None:
    assert platform.admin.post("/projects", {"name": "nlp"}).status_code == 201
    other = platform.admin.post("/jobs", command("a")).json()
    mine = platform.key("operator", "nlp")
    job = mine.post("/jobs", command("a")).json()
    assert job["project"] == "nlp"
    assert [found["id"] for found in mine.get("/jobs").json()["items"]] == [job["id"]]
    assert mine.get("/jobs/a").json()["id"] == job["id"]
    for answer in (
        mine.get(f"/jobs/{other['id']}"),
        mine.get("/jobs", params={"project": "default"}),
        mine.get("/jobs/a", params={"project": "default"}),
        mine.post(f"/jobs/{other['id']}/cancel"),
        mine.post("/apply", {"documents": [{**command("b"), "project": "default"}]}),
        mine.put("/secrets/A", {"value": "x"}, params={"project": "default"}),
    ):
        assert (answer.status_code, problem(answer)) == (403, "access_denied")
    assert [found["name"] for found in mine.get("/projects").json()["items"]] == ["nlp"]
    # A project's administrator makes keys of that project, and no others.
    chief = platform.key("admin", "nlp")
    assert chief.post("/keys", {"name": "k", "access": "viewer"}).json()["project"] == "nlp"
    assert problem(chief.post("/keys", {"name": "k", "access": "agent"})) == "access_denied"
    assert problem(chief.post("/projects", {"name": "x"})) == "access_denied"
    wide = platform.admin.get("/keys").json()["items"][0]
    assert problem(chief.delete(f"/keys/{wide['id']}")) == "access_denied"


def test_agents_reach_only_the_endpoints_of_machines(platform: Platform) -> None:
    assert platform.agent.post("/agents/a/beat", agent_beat()).status_code == 200
    assert platform.agent.get("/gateway/snapshot").status_code == 200
    for path in ("/jobs", "/keys", "/whoami", "/events", "/clusters"):
        assert problem(platform.agent.get(path)) == "access_denied"
    assert problem(platform.key("operator").post("/agents/a/beat", agent_beat())) == (
        "access_denied"
    )


def test_keys_expire_and_are_revoked(platform: Platform) -> None:
    body = {"name": "short", "access": "viewer", "expires_in": "1h"}
    made = platform.admin.post("/keys", body).json()
    asker = platform.admin.with_key(made["key"])
    assert asker.get("/jobs").status_code == 200
    with platform.database.write() as session:
        session.execute(
            update(KeyRow).where(KeyRow.id == made["id"]).values(expires_at=database_now(-1))
        )
    assert problem(asker.get("/jobs")) == "key_unknown"
    lasting = platform.admin.post("/keys", {"name": "l", "access": "viewer"}).json()
    for _ in range(2):
        assert platform.admin.delete(f"/keys/{lasting['id']}").status_code == 204
    assert problem(platform.admin.with_key(lasting["key"]).get("/jobs")) == "key_unknown"
    listed = {key["id"]: key for key in platform.admin.get("/keys").json()["items"]}
    assert listed[lasting["id"]]["revoked_at"] is not None
    assert all("key" not in key for key in listed.values())


def test_secrets_are_write_only_and_sealed(platform: Platform) -> None:
    assert platform.admin.put("/secrets/TOKEN", {"value": "hunter2"}).json()["version"] == 1
    assert platform.admin.put("/secrets/TOKEN", {"value": "hunter3"}).json()["version"] == 2
    listed = platform.admin.get("/secrets").text
    with platform.database.read() as session:
        stored = session.scalars(select(SecretRow)).one().value
        events = str([(row.message, row.data) for row in session.scalars(select(EventRow))])
    assert "hunter" not in listed + events and b"hunter" not in stored
    assert platform.admin.delete("/secrets/TOKEN").status_code == 204
    assert problem(platform.admin.delete("/secrets/TOKEN")) == "not_found"


@pytest.mark.parametrize("seconds", [timedelta(days=8000).total_seconds(), 0, -1])
def test_a_lifetime_out_of_range_is_refused(platform: Platform, seconds: float) -> None:
    answer = platform.admin.post("/keys", {"name": "x", "access": "viewer", "expires_in": seconds})
    assert problem(answer) == "invalid_document"


def test_a_project_is_made_once(platform: Platform) -> None:
    assert platform.admin.post("/projects", {"name": "nlp"}).status_code == 201
    again = platform.admin.post("/projects", {"name": "nlp"})
    assert (again.status_code, problem(again)) == (409, "name_taken")


def test_gateways_are_told_the_limits_of_a_key(platform: Platform) -> None:
    limits = {"requests_per_minute": 60, "tokens_per_minute": 100_000, "streams": 4}
    made = platform.admin.post("/keys", {"name": "app", "access": "viewer", **limits}).json()
    assert {name: made[name] for name in limits} == limits
    told = {key["name"]: key for key in platform.agent.get("/gateway/snapshot").json()["keys"]}
    assert {name: told["app"][name] for name in limits} == limits
    others = [key for name, key in told.items() if name != "app"]
    assert others and all(key["streams"] is None for key in others)
    for wrong in ({"streams": 0}, {"tokens_per_minute": -1}, {"requests_per_minute": "many"}):
        refused = platform.admin.post("/keys", {"name": "x", "access": "viewer", **wrong})
        assert problem(refused) == "invalid_document"
        assert next(iter(wrong)) in refused.text


def test_projects_are_isolated_by_an_administrator_of_the_installation(platform: Platform) -> None:
    made = platform.admin.post("/projects", {"name": "nlp", "isolation": "cluster"}).json()
    assert (made["isolation"], made["clusters"]) == ("cluster", [])
    assert platform.admin.post("/projects", {"name": "cv"}).json()["isolation"] == "shared"
    platform.agent.post("/agents/own/beat", agent_beat(project="cv"))
    changed = platform.admin.put("/projects/cv", {"isolation": "cluster"})
    assert changed.json()["clusters"] == ["own"]
    assert platform.admin.put("/projects/cv", {"isolation": "cluster"}).json() == changed.json()
    assert platform.admin.get("/clusters/own").json()["project"] == "cv"
    chief = platform.key("admin", "nlp")
    assert problem(chief.put("/projects/nlp", {"isolation": "shared"})) == "access_denied"
    assert problem(platform.admin.put("/projects/x", {"isolation": "shared"})) == "not_found"
    assert platform.admin.put("/projects/cv", {"isolation": "own"}).status_code == 422
    with platform.database.read() as session:
        events = session.scalars(select(EventRow).where(EventRow.type == "project.isolation"))
        assert [event.message for event in events] == [
            "project cv is isolated in clusters of its own"
        ]


def test_planning_and_notes_of_a_project_know_its_clusters_alone(platform: Platform) -> None:
    platform.admin.post("/projects", {"name": "nlp", "isolation": "cluster"})
    platform.agent.post("/agents/a/beat", agent_beat(slots=8))
    document = {**command("wide", ranks=4), "project": "nlp"}
    applied = platform.admin.post("/apply", {"documents": [document]}).json()
    assert applied["results"][0]["message"] == "waits for a cluster to connect"
    beat = agent_beat(slots=2, project="nlp")
    beat["nodes"][0]["node_id"] = "own1"
    platform.agent.post("/agents/own/beat", beat)
    documents = [{**document, "name": "other"}, command("shared", ranks=4)]
    applied = platform.admin.post("/apply", {"documents": documents}).json()
    messages = {one["name"]: one["message"] for one in applied["results"]}
    assert messages == {"other": "waits: needs 4 slots, the largest cluster has 2", "shared": ""}
