"""Isolated projects: where their runs start, whatever changes while somebody plans."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from quarterdeck.specs.protocol import RankPlacement
from quarterdeck.store.access_queries import add_project, isolate_project
from quarterdeck.store.capacity import hold_capacity, reserve, tentative
from quarterdeck.store.errors import CapacityTaken
from quarterdeck.store.pools import Declared, declare_pools
from quarterdeck.store.tables import EventRow
from quarterdeck.store.tenants import read_tenancy
from tests.integration.controller.conftest import Agent, command


@pytest.fixture
def tenants(platform: Any) -> Any:
    """The isolated project nlp, and the cluster a that everybody shares."""
    with platform.database.write() as session:
        add_project(session, "nlp", actor="ada", isolation="cluster")
    return platform


def test_its_jobs_wait_until_it_has_a_cluster_and_others_leave_that_alone(tenants: Any) -> None:
    mine = tenants.submit(command("mine", project="nlp", ranks=2))
    service = tenants.deploy(
        {"kind": "service", "name": "chat", "model": "file:///m", "project": "nlp"}
    )
    tenants.controller.tick()
    waiting = tenants.job(mine)
    assert (waiting.phase, waiting.reason) == ("queued", "NoClusterOfItsOwn")
    assert "start an agent with --project nlp" in waiting.message
    own = Agent(tenants.database, cluster="own", nodes={"m1": 4}, project="nlp")
    own.beat()
    other = tenants.submit(command("other", ranks=8))
    wide = tenants.submit(command("wide", ranks=1, cluster="own"))
    for _ in range(3):
        tenants.controller.tick()
    assert tenants.run_of(mine).cluster == "own"
    assert tenants.run_of(service).cluster == "own"
    assert tenants.run_of(other).cluster == "a"
    assert tenants.job(wide).reason == "ClusterOfAnotherProject"


def test_a_cluster_that_changes_hands_is_empty_before_it_is_used(tenants: Any) -> None:
    """What runs there goes on; nobody starts beside it who must not."""
    _, run = tenants.started(command("theirs", ranks=1))
    tenants.agent.project = "nlp"
    tenants.agent.beat()
    mine = tenants.submit(command("mine", project="nlp", ranks=1))
    tenants.controller.tick()
    assert tenants.job(mine).reason == "OthersStillRun"
    tenants.agent.say(run, "succeeded")
    for _ in range(3):
        tenants.controller.tick()
    assert tenants.run_of(mine).cluster == "a"
    with tenants.database.read() as session:
        (event,) = session.scalars(select(EventRow).where(EventRow.type == "cluster.project"))
    assert event.message == "cluster a is of project nlp alone, was shared"


def test_what_the_pools_file_says_comes_before_the_agents_word(tenants: Any) -> None:
    with tenants.database.write() as session:
        declare_pools(session, [Declared("a", "ml", "quarterdeck-a", [], "nlp")])
        assert read_tenancy(session).owners == {"a": "nlp"}
        assert read_tenancy(session, "a").owners == {"a": "nlp"}
        declare_pools(session, [Declared("a", "ml", "quarterdeck-a", [])])
        assert read_tenancy(session).owners == {}


def places(*ranks: int) -> list[RankPlacement]:
    return [RankPlacement(rank=rank, node_id="n1") for rank in ranks]


def test_whoever_planned_before_a_change_is_refused_at_the_last_step(tenants: Any) -> None:
    """The plan is older than the transaction that carries it out: the rule holds there too."""
    database = tenants.database
    with database.write() as session:
        with pytest.raises(CapacityTaken, match="closed to project nlp: it is shared"):
            reserve(session, "a", "nlp", places(0))
        reserve(session, "a", "default", places(0))
    tenants.agent.project = "nlp"
    tenants.agent.beat()
    with database.write() as session, pytest.raises(CapacityTaken, match="belongs to project nlp"):
        reserve(session, "a", "default", places(0))
    with database.write() as session:
        isolate_project(session, "nlp", "shared", actor="ada")
    tenants.agent.project = None
    tenants.agent.beat()
    with database.write() as session:
        reserve(session, "a", "nlp", places(0))


def test_two_projects_of_one_transaction_count_for_each_other(tenants: Any) -> None:
    """A batch of starts: the second sees the first, but not one whose savepoint was rolled back."""
    tenants.started(command("theirs", ranks=1))
    with tenants.database.write() as session:
        isolate_project(session, "nlp", "shared", actor="ada")
        hold_capacity(session, ["a"])
        with pytest.raises(RuntimeError), tentative(session):
            reserve(session, "a", "nlp", places(0))
            raise RuntimeError
        reserve(session, "a", "default", places(1))
    with tenants.database.write() as session:
        isolate_project(session, "nlp", "cluster", actor="ada")
        with pytest.raises(CapacityTaken, match="it is shared"):
            reserve(session, "a", "nlp", places(2))
