"""Services over REST: nobody's change is lost."""

from __future__ import annotations

from typing import Any

from tests.integration.api.conftest import Platform, command, paths, problem

SERVICE: dict[str, Any] = {
    "kind": "service", "name": "s", "model": "file:///model", "replicas": 2,
}  # fmt: skip


def make(platform: Platform) -> dict[str, Any]:
    answer = platform.admin.post("/apply", {"documents": [SERVICE]})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = platform.admin.get("/services/s").json()
    return found


def test_a_change_needs_the_etag_of_what_was_read(platform: Platform) -> None:
    service = make(platform)
    assert service["phase"] == "deploying" and service["desired_replicas"] == 2
    tag = platform.admin.get("/services/s").headers["etag"]
    changed = {**SERVICE, "engine_args": {"max_batch": 4}}
    missing = platform.admin.put("/services/s", changed)
    assert (missing.status_code, problem(missing)) == (428, "etag_required")
    first = platform.admin.put("/services/s", changed, headers={"If-Match": tag})
    assert first.status_code == 200 and first.json()["revision"] == 2
    assert first.headers["etag"] != tag
    second = platform.admin.put("/services/s", SERVICE, headers={"If-Match": tag})
    assert (second.status_code, problem(second)) == (412, "stale_etag")
    assert platform.admin.get("/services/s").json()["spec"]["engine_args"] == {"max_batch": 4}
    same = platform.admin.put("/services/s", changed, headers={"If-Match": "*"})
    assert same.json()["revision"] == 2 and same.headers["etag"] == first.headers["etag"]


def test_a_put_keeps_name_kind_and_project(platform: Platform) -> None:
    make(platform)
    for wrong in ({**SERVICE, "name": "t"}, command("s")):
        answer = platform.admin.put("/services/s", wrong, headers={"If-Match": "*"})
        assert problem(answer) == "invalid_document" and paths(answer) == ["name"]
    broken = {**SERVICE, "model": "none"}
    answer = platform.admin.put("/services/s", broken, headers={"If-Match": "*"})
    assert paths(answer) == ["model"]


def test_scaling_raises_the_version_and_apply_wants_the_files_number_again(
    platform: Platform,
) -> None:
    make(platform)
    tag = platform.admin.get("/services/s").headers["etag"]
    scaled = platform.admin.post("/services/s/scale", {"replicas": 5})
    assert scaled.json()["desired_replicas"] == 5 and scaled.headers["etag"] != tag
    stale = platform.admin.post("/services/s/scale", {"replicas": 1}, headers={"If-Match": tag})
    assert problem(stale) == "stale_etag"
    again = platform.admin.post("/apply", {"documents": [SERVICE]}).json()["results"][0]
    assert again["action"] == "updated" and again["message"] == "revision 1"
    assert platform.admin.get("/services/s").json()["desired_replicas"] == 2
    assert problem(platform.admin.post("/services/s/scale", {"replicas": -1})) == (
        "invalid_document"
    )


def test_a_removed_service_does_not_change_and_its_name_is_free(platform: Platform) -> None:
    old = make(platform)
    for _ in range(2):
        assert platform.admin.delete("/services/s").status_code == 204
    refused = platform.admin.post("/services/s/scale", {"replicas": 1})
    assert (refused.status_code, problem(refused)) == (409, "service_stopped")
    assert "it is being removed" in platform.admin.get("/services/s/why").json()["facts"]
    new = make(platform)
    assert new["id"] != old["id"]
    listed = platform.admin.get("/services").json()["items"]
    assert [service["id"] for service in listed] == [new["id"], old["id"]]
    events = platform.admin.get(f"/services/{old['id']}/events").json()["items"]
    assert [event["type"] for event in events] == ["service.created", "service.removed"]
