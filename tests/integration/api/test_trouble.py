"""Bad input and trouble: every answer is a problem that names the place and the remedy."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from quarterdeck.api.app import create_app
from quarterdeck.api.problem_catalogue import CATALOGUE
from quarterdeck.store.sessions import Database
from tests.integration.api.conftest import Platform, problem, settings_for


def raw(platform: Platform, body: bytes, path: str = "/api/v1/apply", **headers: str) -> Any:
    chosen = {
        "Authorization": f"Bearer {platform.admin.key}",
        "Content-Type": "application/json",
        **headers,
    }
    return platform.http.post(path, content=body, headers=chosen)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"documents": [{"kind": "command", "name": "a", "name": "b"}]}', "documents[0].name"),
        (b'{"documents": [], "documents": []}', "documents: this field stands twice"),
        (b'{"documents": [{"ranks": NaN}]}', "NaN is not a JSON number"),
        (b'{"documents": [{"ranks": 1e999}]}', "double precision"),
        (b'{"documents": [{"ranks": 99999999999999999999}]}', "beyond 64 bits"),
        (b'{"documents": [{"name": "\\u0000"}]}', "NUL"),
        (b'{"documents": [{"name": "\\ud800"}]}', "surrogate"),
        (b'{"documents": [{"\\ud800": 1}]}', "surrogate"),
        (b'{"documents": ' + b"[" * 100 + b"]" * 100 + b"}", "64 levels"),
        (b'{"documents": ' + b"[" * 200_000, "nested deeper"),
        (b'{"documents": [', "line 1, column 16"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_json_that_can_be_read_in_two_ways_is_refused(
    platform: Platform, body: bytes, said: str
) -> None:
    answer = raw(platform, body)
    assert (answer.status_code, problem(answer)) == (400, "invalid_json"), answer.text
    assert said in answer.json()["detail"]


@pytest.mark.parametrize("body", [b"[]", b'"x"', b"1", b"", b"null", b'{"documents": 3}'])
def test_another_body_is_refused(platform: Platform, body: bytes) -> None:
    assert problem(raw(platform, body)) == "invalid_document"


def test_a_body_of_another_type_is_refused(platform: Platform) -> None:
    answer = raw(platform, b'{"documents": []}', **{"Content-Type": "text/plain"})
    assert problem(answer) == "invalid_document"


def test_bodies_are_bounded_whether_they_say_their_size_or_not(
    open_api: Callable[..., Platform],
) -> None:
    platform = open_api(body_limit=1000, machine_body_limit=3000)
    large = b'{"documents": ["' + b"x" * 2000 + b'"]}'
    answer = raw(platform, large)
    assert (answer.status_code, problem(answer)) == (413, "body_too_large")

    def chunks() -> Any:
        for _ in range(50):
            yield b"x" * 100

    chunked = platform.http.post(
        "/api/v1/apply", content=chunks(), headers={"Content-Type": "application/json"}
    )
    assert (chunked.status_code, problem(chunked)) == (413, "body_too_large")
    beat = raw(platform, b'{"x": "' + b"x" * 2000 + b'"}', "/api/v1/agents/a/beat")
    assert problem(beat) == "invalid_document"


async def test_a_body_that_never_ends_is_given_up(database: Database) -> None:
    app = create_app(settings_for(database, body_seconds=0.2))

    async def dripping() -> Any:
        yield b'{"docu'
        await asyncio.sleep(3600)

    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://api.test") as http:
        answer = await http.post(
            "/api/v1/apply", content=dripping(), headers={"Content-Type": "application/json"}
        )
    assert (answer.status_code, problem(answer)) == (408, "body_too_slow")


async def test_an_answer_that_never_comes_is_given_up(database: Database) -> None:
    app = create_app(settings_for(database, answer_seconds=0.2))

    async def hang() -> None:
        await asyncio.sleep(3600)

    app.add_api_route("/api/v1/hang", hang)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://api.test") as http:
        answer = await http.get("/api/v1/hang")
    assert (answer.status_code, problem(answer)) == (504, "request_too_slow")


def test_unknown_addresses_and_methods_are_problems(platform: Platform) -> None:
    assert problem(platform.admin.get("/nonsense")) == "unknown_route"
    assert problem(platform.admin.get("/jobs/")) == "unknown_route"
    answer = platform.admin("PATCH", "/api/v1/jobs")
    assert (answer.status_code, problem(answer)) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, POST"


@pytest.mark.parametrize(
    "path",
    ["/jobs/%00", "/jobs?name=%00", "/jobs/a%00b", "/jobs?cursor=%00", "/models/a/versions/%00"],
)
def test_nul_never_reaches_the_database(platform: Platform, path: str) -> None:
    assert platform.admin.get(path).status_code in (400, 422)


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("/jobs?limit=0", "query.limit"),
        ("/jobs?limit=x", "query.limit"),
        ("/jobs?phase=done", "query.phase"),
        ("/jobs?project=A", "query.project"),
        ("/jobs/-", "path.id"),
        ("/jobs/a/logs?rank=99999999999", "query.rank[0]"),
    ],
)
def test_wrong_parameters_are_named(platform: Platform, path: str, wrong: str) -> None:
    answer = platform.admin.get(path)
    assert (answer.status_code, problem(answer)) == (422, "invalid_parameter")
    assert answer.json()["errors"][0]["path"] == wrong


def test_a_failure_of_ours_is_a_problem_and_is_logged_without_the_key(
    platform: Platform, caplog: pytest.LogCaptureFixture
) -> None:
    with platform.database.write() as session:
        session.execute(text("DROP TABLE asset_aliases"))
    platform.admin.post("/agents/a/beat", {"agent_id": "x", "started_at": "2026-01-01T00:00:00Z"})
    with caplog.at_level(logging.WARNING):
        answer = platform.admin.put("/models/m/aliases/prod", {"version": 1})
    assert problem(answer) == "not_found"
    with platform.database.write() as session:
        for table in ("asset_inputs", "warmings", "asset_versions"):
            session.execute(text(f"DROP TABLE {table}"))
    with caplog.at_level(logging.WARNING):
        answer = platform.admin.get("/models", headers={"X-Request-Id": "mine-1"})
    assert answer.status_code in (500, 503)
    assert problem(answer) in ("internal_error", "database_unavailable")
    assert answer.headers["x-request-id"] == "mine-1"
    assert str(platform.admin.key) not in caplog.text and "Traceback" not in answer.text


def test_answers_carry_protection_and_an_id(platform: Platform) -> None:
    answer = platform.admin.get("/jobs", headers={"X-Request-Id": "bad id\t"})
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-request-id"] not in ("", "bad id\t")


def test_every_problem_has_a_page_with_its_remedy(platform: Platform) -> None:
    listed = platform.http.get("/problems").text
    for name, kind in CATALOGUE.items():
        page = platform.http.get(f"/problems/{name}")
        assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
        assert kind.remedy.split(".")[0].split("'")[0] in page.text
        assert f"/problems/{name}" in listed
    assert problem(platform.http.get("/problems/none")) == "not_found"


def test_health_readiness_metrics_and_the_front_page(platform: Platform) -> None:
    http = platform.http
    assert http.get("/healthz").json()["status"] == "alive"
    assert http.get("/readyz").json()["status"] == "ready"
    assert "quarterdeck jobs" in http.get("/").text
    platform.admin.get("/jobs/none")
    page = http.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain")
    assert (
        'quarterdeck_api_requests_total{method="GET",route="/api/v1/jobs/{id}",status="404"} 1.0'
        in page.text
    )
    with platform.database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    answer = http.get("/readyz")
    assert answer.status_code == 503 and "has schema 0001" in answer.json()["detail"]
    with platform.database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = 'of a newer version'"))
    assert http.get("/readyz").status_code == 200, "the version before it serves on"
