"""Pools on kwok's machines, and the agent that speaks for their pods over HTTP: kwok runs no
containers, so no agent runs in them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from quarterdeck.client.agents import AgentClient
from quarterdeck.cluster.kubernetes_client import Kubernetes
from quarterdeck.specs.pools import Pool
from quarterdeck.specs.protocol import AgentBeat, AgentWork, NodeReport, RunOrder

Object = dict[str, Any]
SLOTS = 8


def pool_of_machines(name: str, **group: Any) -> Pool:
    """One group `h100` on the machines that belong to the pool; each pod takes a whole one."""
    machine = {"limits": {"nvidia.com/gpu": str(SLOTS)}}

    def pod(resources: Object) -> Object:
        container = {"name": "ray", "image": "localhost/host:1", "resources": resources}
        return {"spec": {"containers": [container], "nodeSelector": {"pool": name}}}

    return Pool.model_validate(
        {
            "name": name,
            "namespace": name,
            "groups": [
                {"name": "h100", "accelerator": "H100", "slots": SLOTS, "max_replicas": 3,
                 "idle_after": 0, **group}
            ],
            "template": {
                "apiVersion": "ray.io/v1",
                "kind": "RayCluster",
                "spec": {
                    "rayVersion": "2.60.0",
                    "headGroupSpec": {"rayStartParams": {}, "template": pod({})},
                    "workerGroupSpecs": [
                        {"groupName": "h100", "template": pod(machine), "minReplicas": 0,
                         "maxReplicas": 1}
                    ],
                },
            },
        }
    )  # fmt: skip


class PodAgent:
    """The agent of a pool's cluster: each worker pod that runs is one of its machines."""

    def __init__(self, api: Kubernetes, pool: Pool, client: AgentClient) -> None:
        self._api, self._pool, self._client = api, pool, client
        self._started_at = datetime.now(UTC)

    def pods(self) -> dict[str, Object]:
        """The worker pods that are not being deleted, by name."""
        found = self._api.each(
            f"/api/v1/namespaces/{self._pool.namespace}/pods",
            labelSelector="ray.io/node-type=worker",
        )
        return {
            pod["metadata"]["name"]: pod
            for pod in found
            if "deletionTimestamp" not in pod["metadata"]
        }

    def beat(self) -> AgentWork:
        """Tell which machines there are; hear what there is to do."""
        nodes = [
            NodeReport(
                node_id=f"ray-{name}", host=name, address=pod["status"].get("podIP", ""),
                slots=SLOTS, accelerator="H100", cpus=64, memory=1 << 39, labels={"pod": name},
            )
            for name, pod in self.pods().items()
            if pod["status"].get("phase") == "Running"
        ]  # fmt: skip
        beat = AgentBeat(agent_id="agent", started_at=self._started_at, nodes=nodes)
        return self._client.beat(self._pool.name, beat)

    def claim(self, work: AgentWork) -> list[RunOrder]:
        """Claim every run that is to be started: what their supervisors would be handed."""
        return [self._client.claim(run.run_id, run.epoch, "agent") for run in work.start]
