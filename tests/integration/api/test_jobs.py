"""Jobs over REST: submitted once, found, listed in pages, and what people want of them."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy import func, select, update

from quarterdeck.store.tables import EventRow, JobRow, KeyRow
from tests.integration.api.conftest import Platform, command, paths, problem


def submit(platform: Platform, name: str = "a", **options: Any) -> dict[str, Any]:
    answer = platform.admin.post("/jobs", command(name), **options)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def count(platform: Platform, table: Any = JobRow) -> int:
    with platform.database.read() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def set_phase(platform: Platform, job: str, phase: str) -> None:
    with platform.database.write() as session:
        session.execute(update(JobRow).where(JobRow.id == job).values(phase=phase))


def test_a_submitted_job_waits_with_its_whole_spec(platform: Platform) -> None:
    job = submit(platform)
    assert job["phase"] == "waiting" and job["desired"] == "run" and job["ranks"] == 1
    assert job["spec"]["max_restarts"] == 3
    by_name = platform.admin.get("/jobs/a")
    assert by_name.json() == platform.admin.get(f"/jobs/{job['id']}").json() == job
    assert by_name.headers["etag"] == '"1"'
    with platform.database.read() as session:
        event = session.scalars(select(EventRow).where(EventRow.subject_id == job["id"])).one()
    assert (event.type, event.actor) == ("job.submitted", "key/home")


def test_a_service_is_no_job(platform: Platform) -> None:
    answer = platform.admin.post("/jobs", {"kind": "service", "name": "s", "model": "m"})
    assert problem(answer) == "invalid_document"


def test_the_same_idempotency_key_answers_like_the_first_time(platform: Platform) -> None:
    headers = {"Idempotency-Key": "once"}
    first = submit(platform, headers=headers)
    set_phase(platform, first["id"], "failed")
    assert submit(platform, headers=headers) == first
    assert count(platform) == 1
    other = platform.admin.post("/jobs", command("b"), headers=headers)
    assert (other.status_code, problem(other)) == (422, "idempotency_key_reused")
    # Another caller's keys are another matter.
    operator = platform.key("operator")
    assert operator.post("/jobs", command("a"), headers=headers).status_code == 201


def test_one_idempotency_key_at_the_same_moment_creates_one_job(platform: Platform) -> None:
    answers: list[Any] = []
    barrier = threading.Barrier(6)

    def ask() -> None:
        barrier.wait()
        answers.append(submit(platform, headers={"Idempotency-Key": "race"}))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 6 and len({answer["id"] for answer in answers}) == 1
    assert count(platform) == 1


def test_a_refused_creation_leaves_its_idempotency_key_free(platform: Platform) -> None:
    headers = {"Idempotency-Key": "k"}
    wrong = {**command("a"), "after": ["job/none"]}
    assert platform.admin.post("/jobs", wrong, headers=headers).status_code == 422
    assert platform.admin.post("/jobs", command("a"), headers=headers).status_code == 201


def test_a_remembered_new_key_is_not_stored_in_the_clear(platform: Platform) -> None:
    body = {"name": "ada", "access": "viewer"}
    headers = {"Idempotency-Key": "k"}
    first = platform.admin.post("/keys", body, headers=headers).json()
    assert platform.admin.post("/keys", body, headers=headers).json() == first
    with platform.database.read() as session:
        for table in ("idempotency_keys", "keys", "events"):
            rows = session.execute(select(func.count()).select_from(KeyRow)).all()
            assert rows
            text = str(session.connection().exec_driver_sql(f"SELECT * FROM {table}").all())
            assert first["key"] not in text


def test_lists_come_in_pages_newest_first(platform: Platform) -> None:
    for number in range(5):
        submit(platform, f"job-{number}")
    seen: list[str] = []
    cursor = None
    while True:
        params = {"limit": 2, **({"cursor": cursor} if cursor else {})}
        page = platform.admin.get("/jobs", params=params).json()
        seen += [job["name"] for job in page["items"]]
        cursor = page.get("next_cursor")
        if cursor is None:
            break
    assert seen == [f"job-{number}" for number in (4, 3, 2, 1, 0)]
    one = platform.admin.get("/jobs", params={"name": "job-3", "phase": "waiting"}).json()
    assert [job["name"] for job in one["items"]] == ["job-3"]
    assert platform.admin.get("/jobs", params={"kind": "data"}).json()["items"] == []


@pytest.mark.parametrize("cursor", ["x", "W10", "WyJhIiwgImIiXQ", "W251bGxd", "é"])
def test_a_cursor_of_another_list_is_refused(platform: Platform, cursor: str) -> None:
    answer = platform.admin.get("/jobs", params={"cursor": cursor})
    assert (answer.status_code, problem(answer)) == (422, "invalid_parameter")


def test_intents_are_written_once_and_raise_the_version(platform: Platform) -> None:
    job = submit(platform)
    for verb, desired in (("suspend", "suspend"), ("resume", "run"), ("cancel", "cancel")):
        once = platform.admin.post(f"/jobs/a/{verb}").json()
        again = platform.admin.post(f"/jobs/{job['id']}/{verb}").json()
        assert once["desired"] == desired and once == again
    assert once["version"] == 4 and once["phase"] == "waiting"
    refused = platform.admin.post("/jobs/a/resume")
    assert (refused.status_code, problem(refused)) == (409, "job_ended")


def test_an_ended_job_is_retried_as_a_new_one(platform: Platform) -> None:
    job = submit(platform)
    assert problem(platform.admin.post("/jobs/a/retry")) == "job_not_ended"
    set_phase(platform, job["id"], "failed")
    assert problem(platform.admin.post("/jobs/a/cancel")) == "job_ended"
    again = platform.admin.post("/jobs/a/retry").json()
    assert again["id"] != job["id"] and again["retry_of"] == job["id"]
    assert again["spec"] == job["spec"] and again["phase"] == "waiting"


def test_nothing_is_found_by_a_wrong_name(platform: Platform) -> None:
    for path in ("/jobs/none", "/jobs/none/why", "/services/none", "/runs/none", "/nodes/none",
                 "/models/none", "/checkpoints/none"):  # fmt: skip
        answer = platform.admin.get(path)
        assert (answer.status_code, problem(answer)) == (404, "not_found"), path


def test_a_retry_of_a_spec_that_is_not_valid_any_more_names_the_fields(platform: Platform) -> None:
    job = submit(platform)
    spec = {**job["spec"], "ranks": 0, "removed_field": 1}
    with platform.database.write() as session:
        session.execute(
            update(JobRow).where(JobRow.id == job["id"]).values(spec=spec, phase="failed")
        )
    answer = platform.admin.post("/jobs/a/retry")
    assert (answer.status_code, problem(answer)) == (422, "invalid_document"), answer.text
    assert paths(answer) == ["ranks", "removed_field"]
    assert count(platform) == 1
