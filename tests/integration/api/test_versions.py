"""Machines whose Ray or Python is not their cluster's head's are named, with what they have."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from quarterdeck.store.joins import KEPT_S, MOST_KEPT, refused_joins
from quarterdeck.store.sessions import Session
from quarterdeck.store.tables import ClusterRow
from tests.integration.api.conftest import Platform, agent_beat

HEAD = {"quarterdeck": "0.1.0", "ray": "2.60.0", "python": "3.11.7"}


@pytest.fixture
def headed(platform: Platform) -> Platform:
    """A cluster whose head has told its versions."""
    platform.agent.post("/agents/a/beat", agent_beat(versions=HEAD))
    return platform


def join(platform: Platform, host: str, **versions: str) -> dict[str, Any]:
    body = {"host": host, "address": "10.0.0.2", "versions": {**HEAD, **versions}}
    answer = platform.agent.post("/clusters/a/join", body)
    assert answer.status_code == 200, answer.text
    ticket: dict[str, Any] = answer.json()
    return ticket


def said(platform: Platform) -> list[str]:
    """What the check `versions` finds."""
    checks = platform.admin.get("/doctor").json()["checks"]
    found = next(check for check in checks if check["name"] == "versions")
    assert (found["state"] == "failed") == bool(found["remedy"]) == bool(found["found"])
    return [one["message"] for one in found["found"]]


def row_of(session: Session) -> ClusterRow:
    return session.scalars(select(ClusterRow)).one()


def test_whom_its_versions_keep_out_is_named_until_it_fits(headed: Platform) -> None:
    assert join(headed, "good")["versions"] == HEAD
    assert said(headed) == []
    join(headed, "old", ray="2.59.0")
    join(headed, "patch", python="3.11.2")
    assert said(headed) == [
        "cluster/a does not take it: it has Ray 2.59.0, not 2.60.0",
        "cluster/a does not take it: it has Python 3.11.2, not 3.11.7",
    ]
    join(headed, "old")
    assert said(headed) == ["cluster/a does not take it: it has Python 3.11.2, not 3.11.7"]
    headed.agent.post("/agents/a/beat", agent_beat(versions={**HEAD, "python": "3.11.2"}))
    assert said(headed) == [], "the head was replaced by one that takes it"


def test_a_machine_of_an_earlier_version_tells_nothing(headed: Platform) -> None:
    answer = headed.agent.post("/clusters/a/join")
    assert answer.status_code == 200 and answer.json()["ray_token"] == "ray-token"
    answer = headed.agent.post("/clusters/a/join", {"host": "new", "speed": "of a later version"})
    assert answer.status_code == 200
    assert said(headed) == []


def test_a_machine_that_asks_again_and_again_is_written_now_and_then(headed: Platform) -> None:
    join(headed, "old", ray="2.59.0")
    with headed.database.read() as session:
        first = row_of(session).refused_joins
    join(headed, "old", ray="2.59.0")
    with headed.database.read() as session:
        assert row_of(session).refused_joins == first
    join(headed, "old", ray="2.58.0")
    assert said(headed) == ["cluster/a does not take it: it has Ray 2.58.0, not 2.60.0"]


def test_the_last_ones_of_a_day_are_kept(headed: Platform) -> None:
    for number in range(MOST_KEPT + 5):
        join(headed, f"pod-{number}", ray="2.59.0")
    assert len(said(headed)) == MOST_KEPT
    with headed.database.write() as session:
        row = row_of(session)
        kept = row.refused_joins or []
        assert kept[-1]["host"] == f"pod-{MOST_KEPT + 4}"
        past = datetime.fromisoformat(kept[0]["at"]) - timedelta(seconds=KEPT_S + 60)
        row.refused_joins = [{**kept[0], "at": past.isoformat()}, *kept[1:]]
        assert len(refused_joins(session, row)) == MOST_KEPT - 1
    join(headed, "one-more", python="3.11.2")
    with headed.database.read() as session:
        hosts = [one["host"] for one in row_of(session).refused_joins or []]
    assert hosts == [*(one["host"] for one in kept[1:]), "one-more"]


def test_machines_that_are_in_are_compared_with_the_head(headed: Platform) -> None:
    """Ray lets another Python in where RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL says so."""
    beat = agent_beat(nodes=3, versions=HEAD)
    beat["nodes"][0]["versions"] = HEAD
    beat["nodes"][1]["versions"] = {**HEAD, "python": "3.11.2"}
    headed.agent.post("/agents/a/beat", beat)
    assert said(headed) == ["node host-2 of cluster/a has Python 3.11.2, not 3.11.7"]
    nodes = {node["host"]: node["versions"] for node in headed.admin.get("/nodes").json()["items"]}
    assert nodes == {"host-1": HEAD, "host-2": {**HEAD, "python": "3.11.2"}, "host-3": {}}
