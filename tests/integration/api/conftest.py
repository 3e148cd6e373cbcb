"""An api over a real database, asked as its clients ask; machines are played through the api."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from fastapi.testclient import TestClient

from quarterdeck.api.app import create_app
from quarterdeck.api.credentials import new_credential
from quarterdeck.api.settings import ApiSettings
from quarterdeck.store.key_queries import add_key
from quarterdeck.store.sessions import Database

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MASTER_KEY = base64.urlsafe_b64encode(b"m" * 32).decode()


def settings_for(database: Database, **changes: Any) -> ApiSettings:
    """Settings of a test's api."""
    usual: dict[str, Any] = {
        "artifacts_uri": f"memory://{uuid.uuid4()}", "api_url": "http://api.test",
        "master_key": MASTER_KEY,
    }  # fmt: skip
    return ApiSettings(database=database, **{**usual, **changes})


@dataclass
class Asker:
    """Sends requests with one key."""

    http: TestClient
    key: str | None = None

    def __call__(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        headers = dict(options.pop("headers", {}))
        if self.key is not None:
            headers.setdefault("Authorization", f"Bearer {self.key}")
        if body is not None:
            options["json"] = body
        return self.http.request(method, path, headers=headers, **options)

    def get(self, path: str, **options: Any) -> Any:
        return self("GET", f"/api/v1{path}", **options)

    def post(self, path: str, body: Any = None, **options: Any) -> Any:
        return self("POST", f"/api/v1{path}", body, **options)

    def put(self, path: str, body: Any = None, **options: Any) -> Any:
        return self("PUT", f"/api/v1{path}", body, **options)

    def delete(self, path: str, **options: Any) -> Any:
        return self("DELETE", f"/api/v1{path}", **options)

    def with_key(self, key: str | None) -> Asker:
        return Asker(self.http, key)


@dataclass
class Platform:
    """One api and its keys."""

    database: Database
    http: TestClient
    admin: Asker
    agent: Asker
    keys: dict[str, str] = field(default_factory=dict)

    def key(self, access: str, project: str | None = None) -> Asker:
        """An asker with a fresh key, made through the api."""
        body = {"name": f"{access}-{len(self.keys)}", "access": access}
        answer = self.admin.post("/keys", {**body, **({"project": project} if project else {})})
        assert answer.status_code == 201, answer.text
        self.keys[answer.json()["id"]] = answer.json()["key"]
        return self.admin.with_key(answer.json()["key"])


def add_raw_key(database: Database, name: str, access: str) -> str:
    """The text of a key put straight into the store, as processes do with a home's own."""
    import secrets

    fresh = new_credential(secrets.token_bytes)
    with database.write() as session:
        add_key(session, name=name, access=access, sha256=fresh.sha256, prefix=fresh.prefix)
    return fresh.text


@pytest.fixture
def open_api(database: Database) -> Iterator[Callable[..., Platform]]:
    """Start an api with changed settings."""
    clients: list[TestClient] = []

    def start(**changes: Any) -> Platform:
        app = create_app(settings_for(database, **changes))
        http = TestClient(app, raise_server_exceptions=False)
        http.__enter__()
        clients.append(http)
        asker = Asker(http)
        return Platform(
            database,
            http,
            asker.with_key(add_raw_key(database, "home", "admin")),
            asker.with_key(add_raw_key(database, "home-agent", "agent")),
        )

    yield start
    for http in clients:
        http.__exit__(None, None, None)


@pytest.fixture
def platform(open_api: Callable[..., Platform]) -> Platform:
    """An api with the usual settings."""
    return open_api()


def command(name: str, **fields: Any) -> dict[str, Any]:
    return {"kind": "command", "name": name, "command": "true", **fields}


def problem(answer: Any) -> str:
    """The name of the problem that was answered."""
    assert answer.headers["content-type"].startswith("application/problem+json"), answer.text
    return str(answer.json()["type"]).removeprefix("/problems/")


def paths(answer: Any) -> list[str]:
    """The paths of the wrong fields."""
    return [error["path"] for error in answer.json()["errors"]]


def agent_beat(slots: int = 8, nodes: int = 1, **fields: Any) -> dict[str, Any]:
    """What an agent of a CPU cluster says."""
    return {
        "agent_id": "agent-1",
        "started_at": NOW.isoformat(),
        "address": "10.0.0.1:6379",
        "ray_token": "ray-token",
        "nodes": [
            {
                "node_id": f"node{number}", "host": f"host-{number}", "address": "10.0.0.1",
                "slots": slots, "cpus": slots, "memory": 64 * 2**30, "is_head": number == 1,
            }
            for number in range(1, nodes + 1)
        ],
        **fields,
    }  # fmt: skip
