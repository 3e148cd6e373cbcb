"""Pools: one writer, decisions that are stored before they are carried out, machines that go only
when nothing runs there. `Machines` plays Kubernetes; tests/kubernetes has the real one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import select, update

from quarterdeck.cluster.provider import NodeSeen, PodSeen, PoolSeen, ProviderError, Trouble
from quarterdeck.controller.capacity import Capacity
from quarterdeck.specs.pools import Pool
from quarterdeck.store.columns import database_now
from quarterdeck.store.errors import StaleRow
from quarterdeck.store.fleet_queries import cordon_node, get_node
from quarterdeck.store.pools import Decision, claim_pool, pool_of, release_pool, store_decision
from quarterdeck.store.sessions import Database
from quarterdeck.store.tables import EventRow, NodeRow, PoolRow, RunRow


@dataclass
class Machines:
    """One pool's pods: as many as were ordered, each of which joins when it is told to."""

    ordered: int | None = None
    """None: not made."""
    pods: dict[str, PodSeen] = field(default_factory=dict)
    nodes: dict[str, NodeSeen] = field(default_factory=dict)
    troubles: tuple[Trouble, ...] = ()
    removed: list[str] = field(default_factory=list)
    buried: list[str] = field(default_factory=list)
    looks: int = 0
    refuse: ProviderError | None = None
    meanwhile: Callable[[], None] = lambda: None
    """Called after each look: what others do before the decision is carried out."""

    def look(self) -> PoolSeen | None:
        self.looks += 1
        if self.refuse is not None and self.refuse.reason != "Conflict":
            raise self.refuse
        if self.ordered is None:
            return None
        seen = PoolSeen(
            version="1", replicas={"h100": self.ordered}, pods=tuple(self.pods.values()),
            nodes=dict(self.nodes), troubles=self.troubles,
        )  # fmt: skip
        self.meanwhile()
        return seen

    def create(self) -> None:
        self.ordered = 0

    def resize(self, seen: PoolSeen, wanted: Mapping[str, int], remove: Sequence[str]) -> bool:
        if self.refuse is not None:
            raise self.refuse
        changed = wanted["h100"] != self.ordered
        self.ordered = wanted["h100"]
        self.removed += remove
        for name in remove:
            del self.pods[name]
        while len(self.pods) < self.ordered:
            name = f"pod-{len(self.pods) + len(self.removed)}"
            self.pods[name] = PodSeen(name, f"uid-{name}", "h100", node=f"k-{name}")
        return changed

    def bury(self, pod: PodSeen) -> None:
        self.buried.append(pod.name)
        del self.pods[pod.name]


POOL = Pool.model_validate(
    {
        "name": "a",
        "groups": [{"name": "h100", "slots": 4, "max_replicas": 3, "idle_after": 0}],
        "template": {
            "apiVersion": "ray.io/v1",
            "kind": "RayCluster",
            "spec": {"headGroupSpec": {}, "workerGroupSpecs": [{"groupName": "h100"}]},
        },
    }
)


@dataclass
class Deck:
    """A platform whose cluster `a` is a pool."""

    platform: Any
    machines: Machines
    capacity: Capacity

    @property
    def database(self) -> Database:
        database: Database = self.platform.database
        return database

    def submit(self, name: str, ranks: int) -> str:
        document = {"kind": "command", "name": name, "command": "true", "ranks": ranks}
        job: str = self.platform.submit(document)
        return job

    def tick(self) -> None:
        self.capacity.tick()
        self.platform.controller.tick()

    def join(self) -> None:
        """Every pod's agent reports its node."""
        self.platform.agent.nodes = dict.fromkeys(self.machines.pods, 4)
        self.platform.agent.beat()

    def job(self, job_id: str) -> Any:
        return self.platform.job(job_id)

    def row(self) -> PoolRow:
        with self.database.read() as session:
            row = pool_of(session, "a")
            assert row is not None
            return row

    def node(self, name: str) -> NodeRow:
        with self.database.read() as session:
            return get_node(session, name)

    def events(self, type: str) -> list[EventRow]:
        with self.database.read() as session:
            return list(session.scalars(select(EventRow).where(EventRow.type == type)))


@pytest.fixture
def deck(platform: Any) -> Deck:
    platform.agent.nodes = {}
    platform.agent.beat()
    machines = Machines()
    deck = Deck(platform, machines, Capacity(platform.database, [(POOL, machines)], rest=0.0))
    deck.capacity.tick()  # made
    return deck


def grown(deck: Deck, *jobs: int) -> list[str]:
    """Jobs of so many ranks that run on machines that came for them."""
    ids = [deck.submit(f"job-{i}", ranks) for i, ranks in enumerate(jobs)]
    deck.platform.controller.tick()
    deck.tick()
    deck.join()
    deck.tick()
    assert [deck.job(one).phase for one in ids] == ["starting"] * len(jobs)
    return ids


def placed_on(deck: Deck, job_id: str) -> set[str]:
    return {place["node_id"] for place in deck.platform.run_of(job_id).placements}


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
