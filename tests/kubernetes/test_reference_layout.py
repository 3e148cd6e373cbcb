"""The reference layout on simulated machines: 4 hosts of 8 accelerators, pipeline 4 × tensor 4 ×
data 2. The platform's own processes, a real API server, KubeRay's operator and Kubernetes'
scheduler; kwok plays the machines, and the test the agent inside them, over HTTP."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from benchmarks.installation import Installation, Shape, installation
from quarterdeck.client.agents import AgentClient, RunClient
from quarterdeck.client.config import read_key
from quarterdeck.cluster.kubernetes_client import Kubernetes
from quarterdeck.specs.beats import RankState, RunBeat
from quarterdeck.specs.pools import Pool
from quarterdeck.specs.protocol import RankPlacement
from quarterdeck.specs.training import Parallelism
from quarterdeck_workers.parallel.layout import Layout
from tests.kubernetes.kuberay_server import KubeRayServer, until
from tests.kubernetes.pools import SLOTS, PodAgent, pool_of_machines

NAME = "reference"
PIPELINE, DATA, TENSOR, HOSTS = 4, 2, 4, 4
TRAINING = {
    "kind": "pretrain", "name": "llama", "datasets": "file:///tokens", "cluster": NAME,
    "architecture": {
        "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "vocab_size": 32000, "max_position_embeddings": 2048,
    },
    "training": {
        "sequence_length": 2048, "global_batch_size": 64, "micro_batch_size": 1, "steps": 10,
    },
    "parallelism": {"pipeline": PIPELINE, "tensor": TENSOR, "data": DATA},
    "resources": {"accelerator": "H100"},
}  # fmt: skip


@pytest.fixture
def pool(kuberay: KubeRayServer) -> Iterator[Pool]:
    """A pool that may have as many machines as Kubernetes has: the four hosts."""
    for number in range(HOSTS):
        kuberay.machine(f"host-{number}", NAME, SLOTS)
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAME}}
    kuberay.apply([space])
    yield pool_of_machines(NAME, max_replicas=HOSTS)
    kuberay.kubectl("delete", "raycluster", "--all", "-n", NAME, "--wait=false")
    kuberay.kubectl("delete", "nodes", "-l", f"pool={NAME}", "--wait=false")


@pytest.fixture
def platform(kuberay: KubeRayServer, pool: Pool, tmp_path: Path) -> Iterator[Installation]:
    """The platform's processes, sizing the pool; no agent."""
    file = tmp_path / "pools.yaml"
    file.write_text(json.dumps({"pools": [pool.model_dump(mode="json")]}))
    variables = {"QUARTERDECK_POOLS": str(file), "KUBECONFIG": str(kuberay.kubeconfig)}
    with installation(Shape(agents=0, environment=variables)) as platform:
        yield platform


@pytest.mark.timeout(900)
def test_the_reference_layout_on_four_hosts(
    kuberay: KubeRayServer, api: Kubernetes, pool: Pool, platform: Installation
) -> None:
    key = read_key(platform.home.agent_key)
    with platform.connect() as client, AgentClient(platform.options.api_url, key) as agents:
        job = client.jobs.submit(TRAINING)
        agent = PodAgent(api, pool, agents)
        agent.beat()  # of the head alone: no machine is there yet

        pods = until(lambda: _running(agent), f"{HOSTS} pods run", 180.0)
        cluster = kuberay.get("raycluster", pool.object_name, "-n", NAME)
        (group,) = cluster["spec"]["workerGroupSpecs"]
        assert (group["groupName"], group["replicas"]) == ("h100", HOSTS)
        for pod in pods.values():
            (container,) = pod["spec"]["containers"]
            assert container["resources"]["limits"]["nvidia.com/gpu"] == str(SLOTS)
        assert sorted(pod["spec"]["nodeName"] for pod in pods.values()) == [
            f"host-{number}" for number in range(HOSTS)
        ]

        work = until(lambda: (found := agent.beat()).start and found, "the run is placed", 120.0)
        (order,) = agent.claim(work)
        layout = Parallelism.model_validate(order.spec["parallelism"])
        assert (layout.pipeline, layout.tensor, layout.data) == (PIPELINE, TENSOR, DATA)
        check_rank_map(order.placements, [f"ray-{name}" for name in pods])

        run = client.runs.get(order.run_id)
        assert run.placements == order.placements
        hosts = {node.id: node.host for node in client.nodes.list()}
        assert {hosts[place.node_id] for place in run.placements} == set(pods)

        ranks = [RankState(rank=place.rank, phase="running") for place in order.placements]
        with RunClient(platform.options.api_url, order.run_key) as supervisor:
            supervisor.beat(order.run_id, RunBeat(
                epoch=order.epoch, seq=1, sent_at=run.created_at, reported_phase="running",
                ranks=ranks,
            ))  # fmt: skip
        until(lambda: client.jobs.get(job.id).phase == "running", "the training runs", 60.0)
        assert kuberay.get("raycluster", pool.object_name, "-n", NAME)["spec"] == cluster["spec"]


def _running(agent: PodAgent) -> dict[str, object]:
    pods = agent.pods()
    phases = [pod["status"].get("phase") for pod in pods.values()]
    return pods if phases == ["Running"] * HOSTS else {}


def check_rank_map(placements: Sequence[RankPlacement], nodes: Sequence[str]) -> None:
    """Every rank where rank = (pp·D + dp)·T + tp wants it: a stage on a host, tensor groups
    inside."""
    assert [place.rank for place in placements] == list(range(PIPELINE * DATA * TENSOR))
    of_stage = [placements[pp * DATA * TENSOR].node_id for pp in range(PIPELINE)]
    assert sorted(of_stage) == sorted(nodes)
    for pp in range(PIPELINE):
        for dp in range(DATA):
            for tp in range(TENSOR):
                rank = (pp * DATA + dp) * TENSOR + tp
                place = placements[rank]
                assert (place.node_id, place.local_rank, place.slots) == (
                    of_stage[pp], dp * TENSOR + tp, 1,
                )  # fmt: skip
                # What the rank itself will make of its number.
                seen = Layout(DATA, TENSOR, PIPELINE, rank)
                assert (seen.stage, seen.replica, seen.slice) == (pp, dp, tp)
    assert Counter(place.node_id for place in placements) == dict.fromkeys(nodes, SLOTS)
    assert {place.accelerator for place in placements} == {"H100"}
