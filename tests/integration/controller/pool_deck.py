"""A platform whose cluster is a pool. `Machines` plays Kubernetes; tests/kubernetes has the real
one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import select

from quarterdeck.cluster.provider import NodeSeen, PodSeen, PoolSeen, ProviderError, Trouble
from quarterdeck.controller.capacity import Capacity
from quarterdeck.specs.pools import Pool
from quarterdeck.store.fleet_queries import get_node
from quarterdeck.store.pools import pool_of
from quarterdeck.store.sessions import Database
from quarterdeck.store.tables import EventRow, NodeRow, PoolRow


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
    slow: bool = False
    """Pods that were named to go are still there."""
    removing: set[str] = field(default_factory=set)
    ending: datetime | None = None

    def look(self) -> PoolSeen | None:
        self.looks += 1
        if self.refuse is not None and self.refuse.reason != "Conflict":
            raise self.refuse
        if self.ordered is None:
            return None
        seen = PoolSeen(
            version="1", replicas={"h100": self.ordered}, pods=tuple(self.pods.values()),
            nodes=dict(self.nodes), troubles=self.troubles, removing=frozenset(self.removing),
            ending=self.ending,
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
            if self.slow:
                self.removing.add(name)
            else:
                del self.pods[name]
        while len(self.pods) - len(self.removing) < self.ordered:
            name = f"pod-{len(self.pods) + len(self.removed) - len(self.removing)}"
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


def open_deck(platform: Any, pool: Pool = POOL) -> Deck:
    """A pool that was made and has no machine."""
    platform.agent.nodes = {}
    platform.agent.beat()
    machines = Machines()
    deck = Deck(platform, machines, Capacity(platform.database, [(pool, machines)], rest=0.0))
    deck.capacity.tick()
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
