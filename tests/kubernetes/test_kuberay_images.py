"""A cluster for one run, with its image, against the real API server and operator."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update

from quarterdeck.cluster.kuberay import KubeRay
from quarterdeck.controller.capacity import Capacity
from quarterdeck.specs.pools import Pool
from quarterdeck.specs.protocol import AgentBeat, NodeReport
from quarterdeck.store.agents import record_agent_beat
from quarterdeck.store.own_clusters import AFTER_S, own_clusters
from quarterdeck.store.tables import JobRow, PoolRow, RunRow
from tests.kubernetes.kuberay_server import Object, until
from tests.kubernetes.test_kuberay import Pools, pools

__all__ = ["pools"]
IMAGE = "localhost/host:2"


def with_agents(pool: Pool) -> Pool:
    """The pool with agents that say where they belong."""
    document = pool.model_dump(mode="json")
    spec = document["template"]["spec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        group["template"]["spec"]["containers"][0]["args"] = ["--cluster", pool.name]
    return Pool.model_validate(document)


class Deck:
    """A pool whose jobs bring images."""

    def __init__(self, pools: Pools) -> None:
        self.pools, self.pool = pools, with_agents(pools.pool)
        self.restart()

    def restart(self) -> None:
        """Another controller, that knows nothing."""
        provider = KubeRay(self.pools.provider._api, self.pool)
        self.capacity = Capacity(self.pools.database, [(self.pool, provider)], rest=0.0)

    def tick(self) -> int:
        changed = self.capacity.tick()
        self.pools.controller.tick()
        return changed

    def submit(self) -> str:
        job = self.pools.submit("train", 8)
        with self.pools.database.write() as session:
            row = session.get_one(JobRow, job)
            row.spec = {**row.spec, "environment": {"image": IMAGE}}
        return job

    def own(self) -> list[PoolRow]:
        with self.pools.database.read() as session:
            return list(own_clusters(session, self.pool.name))

    def pods(self, row: PoolRow) -> list[Object]:
        label = f"ray.io/cluster={row.object}"
        found = self.pools.server.get("pods", "-n", row.namespace, "-l", label)
        return list(found["items"])

    def clusters(self) -> list[str]:
        found = self.pools.server.get("rayclusters", "-n", self.pool.namespace)
        return [one["metadata"]["name"] for one in found["items"]]

    def join(self, row: PoolRow, pod: Object) -> None:
        name = pod["metadata"]["name"]
        node = NodeReport(
            node_id=f"ray-{name}", host=name, address="10.0.0.9", slots=8, accelerator="H100",
            labels={"pod": name},
        )  # fmt: skip
        started_at = datetime(2026, 1, 1, tzinfo=UTC)
        beat = AgentBeat(agent_id="own", started_at=started_at, nodes=[node])
        with self.pools.database.write() as session:
            record_agent_beat(session, row.name, beat)


@pytest.fixture
def deck(pools: Pools) -> Iterator[Deck]:
    yield Deck(pools)


def _worker(pods: list[Object]) -> Any:
    found = [pod for pod in pods if pod["metadata"]["labels"].get("ray.io/group") == "h100"]
    return found[0] if found and found[0]["status"].get("phase") == "Running" else None


def test_made_for_one_run_and_deleted_after_it_whoever_is_the_controller(deck: Deck) -> None:
    job = deck.submit()
    until(lambda: deck.tick() >= 0 and deck.own(), "it is wanted")
    deck.restart()
    (row,) = deck.own()
    worker = until(lambda: deck.tick() >= 0 and _worker(deck.pods(row)), "its machine comes")
    for pod in deck.pods(row):
        assert pod["spec"]["containers"][0]["image"] == IMAGE
        started = " ".join(pod["spec"]["containers"][0]["args"])  # Ray's own line follows
        assert re.search(rf"--cluster +{re.escape(row.name)}( |$)", started), started
    deck.join(row, worker)
    until(lambda: deck.tick() >= 0 and deck.pools.job(job).phase == "starting", "it is placed")
    assert deck.pools.machines_of(job) == {worker["metadata"]["name"]}
    assert set(deck.clusters()) == {deck.pool.object_name, row.object}

    deck.pools.cancel(job)
    with deck.pools.database.write() as session:
        ended = RunRow.ended_at
        assert session.scalar(update(RunRow).values(
            ended_at=datetime.now(UTC) - timedelta(seconds=AFTER_S + 5)
        ).where(RunRow.owner_id == job, ended.is_not(None)).returning(RunRow.id))  # fmt: skip
    deck.tick()
    deck.restart()
    until(lambda: deck.tick() >= 0 and not deck.own(), "it is forgotten")
    assert deck.pods(row) == []
    assert deck.clusters() == [deck.pool.object_name]
