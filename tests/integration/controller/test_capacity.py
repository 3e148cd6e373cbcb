"""Pools: one writer, decisions that are stored before they are carried out, machines that go only
when nothing runs there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update

from quarterdeck.cluster.provider import NodeSeen, ProviderError, Trouble
from quarterdeck.controller.capacity import Capacity
from quarterdeck.store.columns import database_now
from quarterdeck.store.errors import StaleRow
from quarterdeck.store.fleet_queries import cordon_node, get_node
from quarterdeck.store.pools import (
    Decision,
    claim_pool,
    pool_of,
    release_pool,
    store_decision,
)
from quarterdeck.store.sessions import Database
from quarterdeck.store.tables import PoolRow, RunRow
from tests.integration.controller.pool_deck import (
    POOL,
    Deck,
    Machines,
    grown,
    open_deck,
    placed_on,
)


@pytest.fixture
def deck(platform: Any) -> Deck:
    return open_deck(platform)


def test_a_gang_waits_for_machines_and_gets_them(deck: Deck) -> None:
    job = deck.submit("wide", 8)
    deck.platform.controller.tick()
    deck.tick()
    waiting = deck.job(job)
    assert (waiting.reason, deck.machines.ordered) == ("WaitingForMachines", 2)
    assert "needs 8" in waiting.message and "2 machines of group h100" in waiting.message
    deck.join()
    deck.tick()
    assert deck.job(job).phase == "starting"


def test_a_gang_larger_than_the_pool_is_told_so(deck: Deck) -> None:
    job = deck.submit("wide", 13)
    deck.tick()
    deck.tick()
    assert (deck.job(job).reason, deck.machines.ordered) == ("ExceedsCluster", 0)
    assert "12 at its largest" in deck.job(job).message


def test_each_decision_is_stored_with_what_bound_it(deck: Deck) -> None:
    grown(deck, 4, 8)
    size = deck.row().sizes["h100"]
    assert (size["wanted"], size["here"], size["coming"], size["room"]) == (3, 3, 0, 0)
    (event,) = deck.events("pool.resized")
    assert event.subject == "pool/a"
    assert event.data["constraint"] == "demand"
    assert "job/job-0, job/job-1" in event.data["bound_by"]


def test_only_the_idle_one_goes_and_it_is_closed_first(deck: Deck) -> None:
    first, second = grown(deck, 4, 4)
    (idle,) = placed_on(deck, first)
    deck.platform.wish(first, "cancel")
    for _ in range(3):
        deck.platform.controller.tick()
    deck.capacity.tick()
    assert (deck.machines.removed, deck.machines.ordered) == ([idle], 1)
    assert deck.node(idle).cordon_reason.startswith("LeavingPool")
    assert deck.events("node.cordoned")[-1].data["reason"] == "LeavingPool"
    assert placed_on(deck, second) == set(deck.machines.pods)


@dataclass
class LateWriter:
    """A controller's database to which others write between its look and its decision."""

    database: Database
    machines: Machines
    others: Callable[[], None]
    looks: int = 0

    def __post_init__(self) -> None:
        self.read, self.looks = self.database.read, self.machines.looks

    def write(self) -> Any:
        if self.machines.looks > self.looks:
            self.looks += 1_000
            self.others()
        return self.database.write()


def test_a_machine_that_got_work_meanwhile_stays(deck: Deck) -> None:
    """Between the look and the decision somebody places a run on the machine that was to go."""
    (first,) = grown(deck, 4)
    (idle,) = placed_on(deck, first)
    deck.platform.wish(first, "cancel")
    for _ in range(3):
        deck.platform.controller.tick()

    placed: list[str] = []

    def place() -> None:
        placed.append(deck.submit("late", 4))
        deck.platform.controller.tick()

    late: Any = LateWriter(deck.database, deck.machines, place)
    Capacity(late, [(POOL, deck.machines)], rest=0.0).tick()
    assert placed_on(deck, placed[0]) == {idle}
    assert (deck.machines.removed, deck.machines.ordered) == ([], 1)
    assert not deck.node(idle).cordoned


def test_the_least_is_recalled_rather_than_ordered(deck: Deck) -> None:
    (first,) = grown(deck, 4)
    (name,) = deck.machines.pods
    deck.platform.wish(first, "cancel")
    for _ in range(3):
        deck.platform.controller.tick()
    deck.machines.refuse = ProviderError("Conflict", "somebody wrote it")
    deck.capacity.tick()  # closed, and not yet removed
    assert deck.node(name).cordon_reason.startswith("LeavingPool")
    deck.machines.refuse = None
    second = deck.submit("second", 4)
    deck.platform.controller.tick()
    deck.tick()
    assert (deck.machines.ordered, deck.machines.removed) == (1, [])
    assert not deck.node(name).cordoned
    assert placed_on(deck, second) == {name}


@pytest.mark.parametrize("who", ["ada", "faults"])
def test_what_somebody_closed_is_neither_opened_nor_removed(deck: Deck, who: str) -> None:
    (first,) = grown(deck, 4)
    (name,) = deck.machines.pods
    with deck.database.write() as session:
        node = get_node(session, name)
        cordon_node(session, node, True, actor="ada")
        node.cordon_reason = "RepeatedFaults: many" if who == "faults" else ""
    deck.platform.wish(first, "cancel")
    for _ in range(3):
        deck.tick()
    assert (deck.node(name).cordoned, deck.machines.ordered) == (True, 1)


def test_a_dead_machine_frees_what_ran_there(deck: Deck) -> None:
    (job,) = grown(deck, 4)
    run = deck.platform.run_of(job)
    (name,) = deck.machines.pods
    deck.machines.nodes[f"k-{name}"] = NodeSeen(f"k-{name}", dead="node was deleted")
    deck.capacity.tick()
    assert deck.machines.buried == [name]
    assert deck.node(name).confirmed_dead["by"] == "kubernetes"
    assert deck.events("node.confirmed_dead")[0].actor == "kubernetes"
    with deck.database.read() as session:
        assert session.get_one(RunRow, run.id).phase == "assigned"  # controllers judge it


def test_a_node_that_goes_is_closed_and_opened_again(deck: Deck) -> None:
    grown(deck, 4)
    (name,) = deck.machines.pods
    deck.machines.nodes[f"k-{name}"] = NodeSeen(f"k-{name}", not_ready="node is not ready: x")
    deck.capacity.tick()
    assert deck.node(name).cordon_reason == "KubernetesNode: node is not ready: x"
    assert deck.node(name).phase == "alive"  # unknown is not dead
    deck.machines.nodes.clear()
    deck.capacity.tick()
    assert not deck.node(name).cordoned


def test_a_pool_that_is_being_deleted_waits_for_its_pods_and_says_so(deck: Deck) -> None:
    grown(deck, 4)
    (name,) = deck.machines.pods
    deck.machines.ending = datetime.now(UTC)
    job = deck.submit("more", 4)
    deck.tick()
    assert deck.machines.ordered == 1, "nothing is ordered of it"
    assert deck.row().reason == "", "it has begun just now"
    assert deck.node(name).cordon_reason == "KubernetesNode: its RayCluster is being deleted"
    deck.machines.ending -= timedelta(seconds=121)
    deck.machines.nodes[f"k-{name}"] = NodeSeen(f"k-{name}", dead="node was deleted")
    deck.tick()
    assert deck.row().reason == "Terminating"
    assert deck.machines.buried == [name]
    assert deck.node(name).confirmed_dead["by"] == "kubernetes"
    deck.platform.controller.tick()
    assert "Terminating: RayCluster" in " ".join(deck.job(job).facts)
    deck.machines.ending = deck.machines.ordered = None
    deck.tick()
    deck.tick()
    assert deck.machines.ordered == 2, "it was made anew, for both"


def test_a_pool_that_breaks_holds_up_no_other(deck: Deck) -> None:
    deck.submit("one", 4)
    broken = Machines()
    other = POOL.model_copy(update={"name": "0", "object_name": "0"})
    capacity = Capacity(
        deck.database, [(other, broken), (POOL, deck.machines)], rest=0.0
    )  # fmt: skip
    broken.ordered = 0
    broken.meanwhile = lambda: 1 / 0  # type: ignore[assignment, return-value]
    deck.platform.controller.tick()
    for _ in range(2):
        capacity.tick()
    assert deck.machines.ordered == 1, "machines come from where they can"
    with deck.database.read() as session:
        row = pool_of(session, "0")
    assert row is not None and row.reason == "InternalError"
    assert "ZeroDivisionError" in row.message


def test_one_controller_at_a_time(deck: Deck) -> None:
    other = Capacity(deck.database, [(POOL, deck.machines)], rest=0.0)
    looks = deck.machines.looks

    def another() -> None:
        deck.machines.meanwhile = lambda: None
        other.tick()

    deck.machines.meanwhile = another
    deck.capacity.tick()
    assert deck.machines.looks == looks + 1
    resting = Capacity(deck.database, [(POOL, deck.machines)], rest=60.0)
    resting.tick()
    other.tick()
    assert deck.machines.looks == looks + 2


def test_who_lost_the_lease_changes_nothing(deck: Deck) -> None:
    """A controller that slept through its lease finds another's decision, and drops its own."""
    deck.submit("one", 4)
    deck.platform.controller.tick()

    def steal() -> None:
        with deck.database.write() as session:
            session.execute(update(PoolRow).values(lease_until=database_now(-1.0)))
            assert claim_pool(session, "a", "another")

    deck.machines.meanwhile = steal
    deck.capacity.tick()
    assert deck.machines.ordered == 0
    assert deck.row().lease_id == "another"
    with deck.database.write() as session:
        with pytest.raises(StaleRow):
            store_decision(session, "a", "mine", Decision({}, {}))
        release_pool(session, "a", "another", rest=0.0)


@pytest.mark.parametrize("reason", ["Forbidden", "KubernetesUnreachable"])
def test_a_provider_that_refuses_is_told_to_who_waits(deck: Deck, reason: Any) -> None:
    deck.machines.refuse = ProviderError(reason, "no")
    job = deck.submit("one", 4)
    for _ in range(3):
        deck.tick()
    assert (deck.row().reason, deck.row().message) == (reason, "no")
    assert len(deck.events("pool.trouble")) == 1
    assert deck.job(job).reason == "WaitingForMachines"
    assert deck.job(job).facts == [f"group h100: {reason}: no"]


def test_what_cannot_be_created_is_told_to_jobs_and_services(deck: Deck) -> None:
    deck.machines.troubles = (Trouble("QuotaExceeded", "exceeded quota: q"),)
    service = deck.platform.deploy({"kind": "service", "name": "chat", "model": "file:///m"})
    job = deck.submit("one", 4)
    deck.platform.controller.tick()
    deck.capacity.tick()
    deck.machines.pods.clear()
    deck.tick()
    assert deck.job(job).facts == ["group h100: QuotaExceeded: exceeded quota: q"]
    said = deck.platform.service(service).facts
    assert "a replica of revision 1 waits: needs 1 slots" in said[0]
    assert said[1] == "group h100: QuotaExceeded: exceeded quota: q"
    assert deck.row().sizes["h100"]["constraint"] == "quota"
