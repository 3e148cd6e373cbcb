"""A container image for a job: its run gets a cluster of its own, which goes after it, whatever
ends in between. `Kubernetes` plays the machines; tests/kubernetes has the real one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import select

from quarterdeck.cluster.provider import PoolSeen, Trouble
from quarterdeck.controller.capacity import Capacity
from quarterdeck.specs.pools import Pool
from quarterdeck.specs.protocol import RankPlacement
from quarterdeck.store.capacity import reserve
from quarterdeck.store.errors import CapacityTaken
from quarterdeck.store.fleet_queries import list_clusters
from quarterdeck.store.own_clusters import AFTER_S, REMEMBERED_S, end_if_done, forget, own_clusters
from quarterdeck.store.tables import ClusterRow, NodeRow, PoolRow, RunRow
from tests.integration.controller.conftest import Agent, command
from tests.integration.controller.ray_clusters import Kubernetes, Provider

IMAGE = "team/train:3"
POD = {"spec": {"containers": [{"name": "ray", "image": "worker:1", "args": ["--cluster", "gpu"]}]}}
POOL = Pool.model_validate(
    {
        "name": "gpu",
        "groups": [{"name": "g", "slots": 4, "max_replicas": 3, "idle_after": 0}],
        "template": {
            "apiVersion": "ray.io/v1",
            "kind": "RayCluster",
            "spec": {
                "headGroupSpec": {"template": POD},
                "workerGroupSpecs": [{"groupName": "g", "template": POD}],
            },
        },
    }
)


@dataclass
class Deck:
    platform: Any
    kubernetes: Kubernetes
    capacity: Capacity

    def tick(self, times: int = 1) -> None:
        for _ in range(times):
            self.capacity.tick()
            self.platform.controller.tick()

    def submit(self, name: str, ranks: int = 4, image: str | None = IMAGE, **fields: Any) -> str:
        environment = {"environment": {"image": image}} if image else {}
        job: str = self.platform.submit(command(name, ranks=ranks, **environment, **fields))
        return job

    @property
    def own(self) -> list[PoolRow]:
        with self.platform.database.read() as session:
            return list(own_clusters(session, "gpu"))

    def join(self, cluster: str) -> Agent:
        """The pods of a cluster report."""
        size = self.kubernetes.sizes[cluster]
        nodes = {f"{cluster}-{i}": 4 for i in range(size)}
        agent = Agent(self.platform.database, cluster=cluster, nodes=nodes)
        agent.beat()
        return agent

    def run_of(self, job: str) -> RunRow:
        run: RunRow = self.platform.run_of(job)
        return run

    def started(self, name: str) -> tuple[str, Agent, RunRow]:
        """A job whose run runs in a cluster of its own."""
        job = self.submit(name)
        self.tick(3)
        row = self.own[-1]
        agent = self.join(row.name)
        self.tick(2)
        run = self.run_of(job)
        agent.claim(run.id, run.epoch)
        agent.say(run, "running", step=0)
        self.tick()
        return job, agent, self.run_of(job)

    def ended(self, agent: Agent, run: RunRow, **fields: Any) -> None:
        """The run's last word, and the time that its cluster is left to it."""
        agent.say(run, "failed" if fields else "succeeded", **fields)
        self.platform.controller.tick()
        self.platform.controller.tick()
        self.platform.age(RunRow, run.id, "ended_at", AFTER_S + 1)


@pytest.fixture
def deck(platform: Any) -> Deck:
    platform.agent.nodes = {}
    platform.agent.beat()
    kubernetes = Kubernetes()
    pools = [(POOL, Provider(kubernetes, POOL))]
    deck = Deck(platform, kubernetes, Capacity(platform.database, pools, rest=0.0))
    deck.capacity.tick()
    assert kubernetes.sizes == {"gpu": 0}
    return deck


def test_the_run_gets_a_cluster_with_its_image_and_nobody_else_goes_there(deck: Deck) -> None:
    job = deck.submit("train")
    deck.platform.controller.tick()
    waiting = deck.platform.job(job)
    assert (waiting.reason, waiting.message) == (
        "WaitingForCluster", f"pool gpu makes a cluster of its own for it, with image {IMAGE}"
    )  # fmt: skip
    deck.tick(3)
    (row,) = deck.own
    assert deck.kubernetes.sizes == {"gpu": 0, row.name: 1}
    assert deck.kubernetes.images[row.name] == IMAGE
    assert deck.platform.job(job).reason == "WaitingForMachines"
    plain = deck.submit("plain", image=None)
    deck.join(row.name)
    deck.tick(2)
    assert deck.run_of(job).cluster == row.name
    assert deck.platform.runs(plain) == []
    assert deck.kubernetes.sizes["gpu"] == 1  # its own machine comes


def test_the_cluster_goes_when_the_run_has_ended_and_is_not_used_again(deck: Deck) -> None:
    job, agent, run = deck.started("train")
    agent.say(run, "succeeded")
    deck.tick(3)
    assert run.cluster in deck.kubernetes.sizes  # what its supervisor still has to tell
    deck.platform.age(RunRow, run.id, "ended_at", AFTER_S + 1)
    deck.tick(4)
    assert (deck.kubernetes.sizes, deck.own) == ({"gpu": 0}, [])
    assert deck.platform.job(job).phase == "succeeded"
    with deck.platform.database.read() as session:
        names = [row.name for row in list_clusters(session, cursor=None, limit=10)[0]]
        assert names == ["a"]
        (node,) = session.scalars(select(NodeRow).where(NodeRow.cluster == run.cluster))
        assert node.confirmed_dead["by"] == "kubernetes"
    agent.beat()  # a last word of an agent that was on its way brings nothing back
    with deck.platform.database.read() as session:
        (cluster,) = session.scalars(select(ClusterRow).where(ClusterRow.name == run.cluster))
        assert cluster.phase == "gone"


def test_machines_of_clusters_that_are_gone_are_shown_for_a_day(deck: Deck) -> None:
    _, agent, run = deck.started("train")
    deck.ended(agent, run)
    deck.tick(4)

    def remembered() -> tuple[set[str], set[str]]:
        with deck.platform.database.write() as session:
            forget(session, "another")
            clusters = set(session.scalars(select(ClusterRow.name)))
            return clusters, set(session.scalars(select(NodeRow.cluster)))

    assert remembered() == ({"a", run.cluster}, {"a", run.cluster})
    with deck.platform.database.read() as session:
        query = select(ClusterRow.id).where(ClusterRow.name == run.cluster)
        cluster = session.scalars(query).one()
    deck.platform.age(ClusterRow, cluster, "last_beat_at", REMEMBERED_S + 1)
    assert remembered() == ({"a"}, {"a"})


def test_each_attempt_has_its_own(deck: Deck, make: Any) -> None:
    job, agent, run = deck.started("train")
    deck.ended(agent, run, failure=make["failure"]("node"))
    deck.tick(4)
    assert deck.platform.job(job).phase == "queued"
    (row,) = deck.own
    assert row.name != run.cluster
    assert deck.kubernetes.sizes == {"gpu": 0, row.name: 1}


@pytest.mark.parametrize("dies_after", ["written", "made", "told to end", "deleted"])
def test_another_controller_goes_on_where_one_died(deck: Deck, dies_after: str) -> None:
    """What is written is carried out by whoever comes; nothing is made twice or left behind."""

    def another() -> None:
        pools = [(POOL, Provider(deck.kubernetes, POOL))]
        deck.capacity = Capacity(deck.platform.database, pools, rest=0.0)

    job = deck.submit("train")
    deck.platform.controller.tick()
    if dies_after == "written":
        real, Provider.create = Provider.create, _dies  # type: ignore[method-assign]
        try:
            with pytest.raises(KeyboardInterrupt):
                deck.tick(3)
        finally:
            Provider.create = real  # type: ignore[method-assign]
        assert len(deck.own) == 1
    elif dies_after == "made":
        deck.capacity.tick()
    if dies_after in ("written", "made"):
        another()
        deck.tick(3)
        (row,) = deck.own
        assert deck.kubernetes.sizes == {"gpu": 0, row.name: 1}
        return
    deck.tick(3)
    (row,) = deck.own
    deck.platform.wish(job, "cancel")
    deck.platform.controller.tick()
    with deck.platform.database.write() as session:
        assert end_if_done(session, row.name)
    if dies_after == "deleted":
        deck.kubernetes.sizes.pop(row.name)
    another()
    deck.tick(4)
    assert (deck.kubernetes.sizes, deck.own) == ({"gpu": 0}, [])


def _dies(provider: Provider) -> None:
    raise KeyboardInterrupt


def test_a_job_that_is_cancelled_or_suspended_gives_its_cluster_back(deck: Deck) -> None:
    job = deck.submit("train")
    deck.tick(3)
    assert len(deck.own) == 1
    deck.platform.wish(job, "suspend")
    deck.tick(5)
    assert (deck.kubernetes.sizes, deck.own) == ({"gpu": 0}, [])
    deck.platform.wish(job, "run")
    deck.tick(4)
    assert len(deck.kubernetes.sizes) == 2


def test_nothing_is_placed_on_a_cluster_that_ends(deck: Deck) -> None:
    """The job wants to run again just after its cluster was told to end."""
    job = deck.submit("train")
    deck.tick(3)
    (row,) = deck.own
    deck.join(row.name)
    deck.platform.wish(job, "suspend")
    deck.platform.controller.tick()
    with deck.platform.database.write() as session:
        assert end_if_done(session, row.name)
    place = RankPlacement(rank=0, node_id=f"{row.name}-0")
    with deck.platform.database.write() as session, pytest.raises(CapacityTaken):
        reserve(session, row.name, "default", [place])  # a plan of just before
    deck.platform.wish(job, "run")
    for _ in range(3):
        deck.platform.controller.tick()
    assert deck.platform.runs(job) == []
    assert deck.platform.job(job).reason == "WaitingForCluster"


def test_all_clusters_of_a_pool_together_have_no_more_than_it_may(deck: Deck) -> None:
    for i in range(4):
        deck.submit(f"train-{i}")
    deck.tick(6)
    assert len(deck.own) == 4
    assert sum(deck.kubernetes.sizes.values()) == 3
    assert len(deck.kubernetes.sizes) == 4  # no head runs for the one without room
    deck.submit("plain", image=None)
    deck.tick(3)
    assert deck.kubernetes.sizes["gpu"] == 0


def test_many_that_no_pool_takes_keep_nobody_from_his_cluster(
    deck: Deck, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quarterdeck.controller.own_clusters.MOST", 2)
    for i in range(5):
        deck.submit(f"wide-{i}", ranks=13)
    jobs = [deck.submit(f"train-{i}") for i in range(3)]
    deck.tick(4)
    assert [row.owner_id for row in deck.own] == jobs[:2]
    assert deck.platform.job(jobs[2]).reason == "WaitingForCluster"


def test_who_lost_the_pool_sizes_nothing_more_of_its_budget(
    deck: Deck, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(2):
        deck.submit(f"train-{i}")
    deck.platform.controller.tick()
    look, looked = Provider.look, list[str]()

    def stolen(provider: Provider) -> PoolSeen | None:
        if provider.name != "gpu":
            looked.append(provider.name)
            with deck.platform.database.write() as session:
                session.get_one(PoolRow, "gpu").lease_id = "another"
        return look(provider)

    monkeypatch.setattr(Provider, "look", stolen)
    deck.capacity.tick()
    assert len(deck.own) == 2
    assert looked == [deck.own[0].name]


def test_a_wrong_image_is_the_reason(deck: Deck) -> None:
    deck.kubernetes.trouble = Trouble("ErrImagePull", f"{IMAGE}: not found")
    job = deck.submit("train")
    deck.tick(5)
    found = deck.platform.job(job)
    assert found.reason == "ImageNotPulled"
    assert found.facts == [f"group g: ErrImagePull: {IMAGE}: not found"]
    deck.platform.wish(job, "cancel")
    deck.tick(5)
    assert (deck.kubernetes.sizes, deck.own) == ({"gpu": 0}, [])


def test_where_no_pool_can_it_says_what_to_do(deck: Deck) -> None:
    wide, elsewhere = deck.submit("wide", ranks=13), deck.submit("named", cluster="a")
    deck.tick(2)
    words_of = {wide: "room for 13 ranks at its largest", elsewhere: "cluster a is none"}
    for job, words in words_of.items():
        found = deck.platform.job(job)
        assert found.reason == "NoPoolForImage"
        assert words in found.message
        assert "or leave environment out" in found.message
    assert deck.own == []


def test_a_pool_whose_agents_would_join_the_pool_itself_says_so(deck: Deck) -> None:
    pod = {"spec": {"containers": [{"name": "ray", "image": "worker:1", "args": ["--cluster"]}]}}
    spec = {**POOL.template["spec"], "headGroupSpec": {"template": pod}}
    bad = POOL.model_copy(update={"template": {**POOL.template, "spec": spec}})
    deck.capacity = Capacity(
        deck.platform.database, [(bad, Provider(deck.kubernetes, bad))], rest=0.0
    )
    job = deck.submit("train")
    deck.tick(4)
    (fact,) = deck.platform.job(job).facts
    assert "Refused: pool gpu cannot run images" in fact and "--cluster gpu" in fact
    deck.platform.wish(job, "cancel")
    deck.tick(3)
    assert deck.own == []


def test_pods_on_a_dead_node_hold_up_no_end(deck: Deck) -> None:
    _, agent, run = deck.started("train")
    deck.kubernetes.stuck.add(run.cluster)
    deck.ended(agent, run)
    deck.tick(4)
    assert (deck.own, deck.kubernetes.stuck) == ([], set())


def test_who_may_not_delete_says_so_and_tries_again(deck: Deck) -> None:
    _, agent, run = deck.started("train")
    deck.kubernetes.refuse_to_delete = True
    deck.ended(agent, run)
    deck.tick(2)
    (row,) = deck.own
    assert (row.reason, row.ending) == ("Forbidden", True)
    deck.kubernetes.refuse_to_delete = False
    deck.tick(4)
    assert deck.own == []
