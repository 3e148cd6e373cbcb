"""Pools against a real API server, the real KubeRay operator and the real scheduler; kwok plays
the machines and says that pods run, and `Pools.beat` speaks for the agents inside."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from quarterdeck.cluster.kuberay import KubeRay
from quarterdeck.cluster.kubernetes_client import Kubernetes, connect
from quarterdeck.cluster.provider import PoolSeen, ProviderError
from quarterdeck.controller.capacity import Capacity
from quarterdeck.controller.loop import Controller
from quarterdeck.specs.kinds import DOCUMENT
from quarterdeck.specs.pools import Pool
from quarterdeck.specs.protocol import AgentBeat, NodeReport
from quarterdeck.store.agents import record_agent_beat
from quarterdeck.store.dead_nodes import confirm_dead
from quarterdeck.store.fleet_queries import get_node
from quarterdeck.store.ids import new_id, next_ordinal
from quarterdeck.store.migrate import upgrade
from quarterdeck.store.pools import pool_of
from quarterdeck.store.sessions import Database
from quarterdeck.store.tables import EventRow, JobRow, NodeRow, PoolRow, ProjectRow, RunRow
from tests.kubernetes.kuberay_server import KubeRayServer, Object, until
from tests.kubernetes.pools import pool_of_machines


class Pools:
    """One pool with a control plane of its own."""

    def __init__(self, server: KubeRayServer, api: Kubernetes, database: Database, pool: Pool):
        self.server, self.database, self.pool = server, database, pool
        self.provider = KubeRay(api, pool)
        self.controller = Controller(database)
        self.capacity = Capacity(database, [(pool, self.provider)], rest=0.0)
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": pool.namespace}}
        server.apply([namespace])

    def submit(self, name: str, ranks: int) -> str:
        spec = DOCUMENT.validate_python(
            {"kind": "command", "name": name, "command": "true", "ranks": ranks,
             "resources": {"accelerator": "H100"}}
        )  # fmt: skip
        row = JobRow(
            id=new_id("job"), name=name, project="default", kind="command",
            spec=spec.model_dump(mode="json"), ordinal=next_ordinal(), ranks=ranks,
        )  # fmt: skip
        with self.database.write() as session:
            session.add(row)
        return row.id

    def tick(self) -> int:
        changed = self.capacity.tick()
        self.controller.tick()
        return changed

    def pods(self, group: str = "h100") -> dict[str, Object]:
        """The worker pods that are not being deleted, by name."""
        found = self.server.get("pods", "-n", self.pool.namespace, "-l", f"ray.io/group={group}")
        return {
            pod["metadata"]["name"]: pod
            for pod in found["items"]
            if "deletionTimestamp" not in pod["metadata"]
        }

    def running(self, count: int) -> dict[str, Object]:
        def look() -> dict[str, Object]:
            pods = self.pods()
            phases = [pod["status"].get("phase") for pod in pods.values()]
            return pods if phases == ["Running"] * count else {}

        found: dict[str, Object] = until(look, f"{count} pods run")
        return found

    def beat(self) -> None:
        """What the pool's agent would report: a node of Ray in each pod that runs."""
        nodes = [
            NodeReport(
                node_id=f"ray-{name}", host=name, address=pod["status"].get("podIP", ""), slots=8,
                accelerator="H100", cpus=64, memory=1 << 39, labels={"pod": name},
            )
            for name, pod in self.pods().items()
            if pod["status"].get("phase") == "Running"
        ]  # fmt: skip
        beat = AgentBeat(agent_id="agent", started_at=datetime(2026, 1, 1, tzinfo=UTC), nodes=nodes)
        with self.database.write() as session:
            record_agent_beat(session, self.pool.name, beat)

    def grown(self, count: int) -> dict[str, Object]:
        """Tick until so many machines have joined."""
        pods = self.running(count)
        self.beat()
        self.tick()
        return pods

    def object(self) -> Any:
        return self.server.get("raycluster", self.pool.object_name, "-n", self.pool.namespace)

    def worker(self) -> Any:
        return self.object()["spec"]["workerGroupSpecs"][0]

    def job(self, job_id: str) -> JobRow:
        with self.database.read() as session:
            return session.get_one(JobRow, job_id)

    def size(self) -> Any:
        with self.database.read() as session:
            row = pool_of(session, self.pool.name)
            assert row is not None
            return row.sizes["h100"]

    def row(self) -> PoolRow:
        with self.database.read() as session:
            return session.get_one(PoolRow, self.pool.name)

    def node(self, pod: str) -> NodeRow:
        with self.database.read() as session:
            return get_node(session, f"ray-{pod}")

    def machines_of(self, job_id: str) -> set[str]:
        """Pods on which the job's newest run is placed."""
        with self.database.read() as session:
            runs = session.scalars(
                select(RunRow).where(RunRow.owner_id == job_id).order_by(RunRow.epoch)
            ).all()
        return {place["node_id"].removeprefix("ray-") for place in runs[-1].placements}

    def cancel(self, job_id: str) -> None:
        with self.database.write() as session:
            session.execute(
                update(JobRow)
                .where(JobRow.id == job_id)
                .values(desired="cancel", version=JobRow.version + 1)
            )
        until(lambda: self.controller.tick() >= 0 and self.job(job_id).phase == "cancelled",
              "the job ends", 5.0)  # fmt: skip

    def events(self, type: str) -> list[EventRow]:
        with self.database.read() as session:
            return list(session.scalars(select(EventRow).where(EventRow.type == type)))


@pytest.fixture
def pools(
    kuberay: KubeRayServer, api: Kubernetes, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Pools]:
    """A pool named after the test, with two machines of its own (parameter: others)."""
    name = request.node.name.removeprefix("test_").replace("_", "-").replace("[", "-")
    name = name.replace("]", "")[:30].strip("-")
    url = f"sqlite:///{tmp_path}/quarterdeck.db"
    upgrade(url)
    database = Database.open(url)
    with database.write() as session:
        session.add(ProjectRow(name="default"))
    for number in range(2):
        kuberay.machine(f"{name}-{number}", name)
    try:
        yield Pools(kuberay, api, database, pool_of_machines(name, **getattr(request, "param", {})))
    finally:
        kuberay.kubectl("delete", "raycluster", "--all", "-n", name, "--wait=false")
        kuberay.kubectl("delete", "nodes", "-l", f"pool={name}", "--wait=false")
        database.close()


def test_made_grown_and_shrunk(pools: Pools) -> None:
    """From the file to machines for two gangs, and back by the name of the one that idles."""
    assert pools.tick() == 1  # made
    made = pools.object()
    assert made["metadata"]["labels"]["quarterdeck.io/pool"] == pools.pool.name
    assert pools.worker()["replicas"] == 0
    first, second = pools.submit("first", 8), pools.submit("second", 8)
    pools.controller.tick()
    until(lambda: pools.tick() or pools.worker()["replicas"] == 2, "it grows")
    assert pools.size()["constraint"] == "demand"
    pools.tick()
    waiting = pools.job(first)
    assert (waiting.phase, waiting.reason) == ("queued", "WaitingForMachines")
    assert "1 machine of group h100" in waiting.message
    pods = pools.grown(2)
    assert {pools.job(one).phase for one in (first, second)} == {"starting"}
    assert pools.machines_of(first) | pools.machines_of(second) == set(pods)

    (resized,) = pools.events("pool.resized")
    assert (resized.data["before"], resized.data["wanted"]) == (0, 2)
    assert "job/first, job/second" in resized.message

    (busy,), (idle,) = pools.machines_of(second), pools.machines_of(first)
    pools.cancel(first)
    until(lambda: pools.tick() or pools.worker()["replicas"] == 1, "it shrinks")
    until(lambda: list(pools.pods()) == [busy], "the idle one goes, and no other")
    assert pools.worker()["scaleStrategy"] == {"workersToDelete": [idle]}
    assert pools.node(idle).cordon_reason.startswith("LeavingPool")
    assert pools.events("pool.resized")[-1].data["constraint"] == "idle"

    pools.beat()
    pools.submit("third", 8)
    pools.controller.tick()
    until(lambda: pools.tick() or pools.worker()["replicas"] == 2, "it grows again")
    assert pools.worker()["scaleStrategy"] == {"workersToDelete": []}
    assert busy in pools.running(2)


def write(pools: Pools, seconds: int) -> None:
    """Somebody else writes the RayCluster's spec."""
    space, name = pools.pool.namespace, pools.pool.object_name
    patch = {"spec": {"autoscalerOptions": {"idleTimeoutSeconds": seconds}}}
    written = ("--type=merge", "-p", json.dumps(patch))
    pools.server.kubectl("patch", "raycluster", name, "-n", space, *written)


class Meddled:
    """The provider, where somebody writes the object between look and patch, once."""

    def __init__(self, pools: Pools) -> None:
        self._pools, self._inner, self.meddle = pools, pools.provider, True

    def look(self) -> PoolSeen | None:
        seen = self._inner.look()
        if self.meddle and seen is not None:
            self.meddle = False
            write(self._pools, 70)
        return seen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def test_a_conflict_is_looked_at_again(pools: Pools) -> None:
    pools.tick()
    seen = until(pools.provider.look, "it is made")
    space, name = pools.pool.namespace, pools.pool.object_name
    pools.server.kubectl("annotate", "raycluster", name, "-n", space, "status=written")
    assert not pools.provider.resize(seen, {"h100": 0}, [])  # nothing of the spec is another's
    before = pools.server.get("raycluster", name, "-n", space)["metadata"]["resourceVersion"]
    write(pools, 50)
    with pytest.raises(ProviderError) as caught:
        pools.provider.resize(seen, {"h100": 3}, [])
    assert caught.value.reason == "Conflict"
    with pytest.raises(ProviderError) as caught:  # the server's own word, not only ours
        operations = [
            {"op": "replace", "path": "/metadata/resourceVersion", "value": before},
            {"op": "replace", "path": "/spec/workerGroupSpecs/0/replicas", "value": 3},
        ]
        pools.provider._api.patch(f"{pools.provider._clusters}/{name}", operations)
    assert caught.value.reason == "Conflict"
    assert pools.worker()["replicas"] == 0

    pools.submit("one", 8)
    pools.controller.tick()
    meddled = Meddled(pools)
    capacity = Capacity(pools.database, [(pools.pool, meddled)], rest=0.0)  # type: ignore[list-item]
    assert capacity.tick() == 0
    assert (meddled.meddle, pools.worker()["replicas"]) == (False, 0)
    until(lambda: capacity.tick() or pools.worker()["replicas"] == 1, "the next look does it")
    assert len(pools.events("pool.resized")) == 1  # told once


def test_no_machine_free(pools: Pools) -> None:
    """The third of three machines that Kubernetes does not have."""
    job = pools.submit("wide", 24)
    until(lambda: pools.tick() == 0 and "trouble" in pools.size() and pools.size()["trouble"],
          "the pod that cannot be bound is seen")  # fmt: skip
    pools.tick()
    row = pools.job(job)
    assert row.reason == "WaitingForMachines"
    assert any("Unschedulable: 0/" in fact and "nvidia.com/gpu" in fact for fact in row.facts)
    (trouble,) = pools.size()["trouble"]
    assert len(trouble["pods"]) == 1


def test_a_quota_is_full(pools: Pools) -> None:
    assert pools.tick() == 1
    pools.server.kubectl("create", "quota", "q", "--hard=pods=2", "-n", pools.pool.namespace)
    job = pools.submit("wide", 16)
    until(lambda: pools.tick() == 0 and pools.row().sizes.get("h100", {}).get("trouble"),
          "the quota is seen")  # fmt: skip
    pools.tick()
    assert any("QuotaExceeded: a pod is forbidden: exceeded quota: q" in fact
               for fact in pools.job(job).facts)  # fmt: skip
    assert pools.size()["constraint"] == "quota"
    assert pools.worker()["replicas"] == 2  # no more are ordered than before


@pytest.mark.parametrize("one_by_one", [0, 20])
def test_a_machine_dies(pools: Pools, one_by_one: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pod would stand in the way for ever; what ran there is proven dead, whether nodes are
    listed or asked for."""
    monkeypatch.setattr("quarterdeck.cluster.nodes.ONE_BY_ONE", one_by_one)
    monkeypatch.setattr("quarterdeck.cluster.nodes.LISTED_S", 0.5)
    job = pools.submit("one", 8)
    until(lambda: pools.tick() == 0 and pools.pods(), "it grows")
    (pod,) = pools.grown(1)
    (busy,) = pools.machines_of(job)
    assert busy == pod
    machine = pools.pods()[pod]["spec"]["nodeName"]
    head = pools.server.get("pods", "-n", pools.pool.namespace, "-l", "ray.io/node-type=head")
    pools.server.kubectl("delete", "node", machine)
    until(lambda: pools.tick() >= 0 and pod not in pools.pods(), "its pod is buried", 10.0)
    node = pools.node(pod)
    assert (node.phase, node.confirmed_dead["by"]) == ("dead", "kubernetes")
    assert "was deleted from Kubernetes" in node.confirmed_dead["reason"]
    replaced = pools.running(1)
    assert pod not in replaced
    assert head["items"], "there was a head"


def test_a_machine_that_somebody_knows_to_be_dead(pools: Pools) -> None:
    pools.submit("one", 8)
    until(lambda: pools.tick() == 0 and pools.pods(), "it grows")
    (pod,) = pools.grown(1)
    with pools.database.write() as session:
        node = get_node(session, f"ray-{pod}")
        confirm_dead(session, node, actor="ada", reason="burnt", force=True)
    until(lambda: pools.tick() >= 0 and pod not in pools.pods(), "its pod is buried", 10.0)


def test_a_cluster_that_is_deleted_is_told_until_it_is_gone(pools: Pools) -> None:
    pools.submit("one", 8)
    until(lambda: pools.tick() == 0 and pools.pods(), "it grows")
    (pod,) = pools.grown(1)
    named = ("raycluster", pools.pool.object_name, "-n", pools.pool.namespace)
    held = {"metadata": {"finalizers": ["example.com/held"]}}
    pools.server.kubectl("patch", *named, "--type=merge", "-p", json.dumps(held))
    pools.server.kubectl("delete", *named, "--wait=false")
    seen = pools.provider.look()
    assert seen is not None and seen.ending is not None
    pools.tick()
    assert pools.node(pod).cordon_reason == "KubernetesNode: its RayCluster is being deleted"
    held["metadata"]["finalizers"] = []
    pools.server.kubectl("patch", *named, "--type=merge", "-p", json.dumps(held))
    until(lambda: pools.tick() >= 0 and _lives(pools), "it is made anew", 30.0)


def _lives(pools: Pools) -> bool:
    seen = pools.provider.look()
    return seen is not None and seen.ending is None


def test_a_machine_that_goes_takes_nothing_new(pools: Pools) -> None:
    pools.submit("one", 8)
    until(lambda: pools.tick() == 0 and pools.pods(), "it grows")
    (pod,) = pools.grown(1)
    machine = pools.pods()[pod]["spec"]["nodeName"]
    taint = "aws-node-termination-handler/spot-itn"
    pools.server.kubectl("taint", "node", machine, f"{taint}=x:NoSchedule")
    pools.tick()
    assert pools.node(pod).cordon_reason == (
        f"KubernetesNode: node {machine}: AWS takes the spot machine back"
    )
    assert pod in pools.pods()  # what runs there may end
    pools.server.kubectl("taint", "node", machine, f"{taint}-")
    pools.tick()
    assert not pools.node(pod).cordoned


def test_what_is_not_ours_is_left_alone(pools: Pools) -> None:
    theirs = {**pools.pool.template, "metadata": {
        "name": pools.pool.object_name, "namespace": pools.pool.namespace,
    }}  # fmt: skip
    pools.server.apply([theirs])
    before = pools.object()["spec"]
    pools.submit("one", 8)
    assert pools.tick() == 0
    assert pools.row().reason == "NotOurs"
    assert "label it quarterdeck.io/pool=" in pools.row().message
    assert pools.object()["spec"] == before


def test_an_api_server_that_is_away(pools: Pools, tmp_path: Path) -> None:
    text = pools.server.kubeconfig.read_text(encoding="utf-8")
    away = tmp_path / "away"
    away.write_text(re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:9", text), encoding="utf-8")
    api = connect(away)
    capacity = Capacity(pools.database, [(pools.pool, KubeRay(api, pools.pool))], rest=0.0)
    assert capacity.tick() == 0
    assert pools.row().reason == "KubernetesUnreachable"
    assert pools.row().lease_id is None
    api.close()
