"""The chart on two real Kubernetes nodes with its database beside them, and clients that ask a
service all the time, each request at one of the gateways that Kubernetes calls ready, as an ingress
controller would send it, with one retry at another."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import run
from typing import Any, TypeVar

from benchmarks.installation import server_at
from quarterdeck.client import Client, QuarterdeckError
from quarterdeck.cluster.kubernetes_client import connect
from quarterdeck.cluster.provider import ProviderError
from quarterdeck.specs.resources import Run
from tests.kubernetes.asking import Completions
from tests.kubernetes.chart import NAMESPACE, Chart
from tests.kubernetes.cluster import Cluster, Images, two_nodes
from tests.kubernetes.release import ADMIN_KEY, Helm, ended, pods_of, prepare, tiny, training_data

HERE = "10.250.0.1"
"""This machine, as nodes and pods reach it."""
NODES = ("node1", "node2")
CODE = "/opt/quarterdeck/platform/quarterdeck/cli"
ALONE = {
    "podAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [
            {
                "topologyKey": "kubernetes.io/hostname",
                "labelSelector": {"matchLabels": {"app.kubernetes.io/component": "workers"}},
            }
        ]
    }
}
"""One machine of the cluster on a node, as with accelerators: no other takes a lost one's place."""
Found = TypeVar("Found")


class Site:
    """The release, as somebody sees it who knows which node stays."""

    def __init__(self, cluster: Cluster, helm: Helm, restart: Callable[[], None]) -> None:
        self.cluster, self._helm = cluster, helm
        self.restart_database = restart
        """As after a crash."""
        self._api = connect(cluster.kubeconfig)
        self._gateways: list[str] = []
        self._stop = threading.Event()
        self._looking = threading.Thread(target=self._look, daemon=True)

    def install(self, machines: int, affinity: dict[str, Any]) -> None:
        copies = [
            word
            for name in ("api", "controller", "gateway")
            for word in ("--set", f"{name}.replicas=2", "--set",
                         f"{name}.resources.requests.cpu=50m")
        ]  # fmt: skip
        self._helm.apply(
            "v1", *copies, "--set", "postgresql.enabled=false",
            "--set", "database.existingSecret=quarterdeck",
            "--set", f"workers.replicas={machines}", "--set", "workers.slots=3",
            "--set", "workers.resources.requests.cpu=100m",
            "--set-json", f"workers.affinity={json.dumps(affinity)}",
        )  # fmt: skip

    def start(self) -> None:
        self._looking.start()
        until(lambda: len(self._gateways) == 2, 60, "two gateways are ready")

    def close(self) -> None:
        self._stop.set()
        self._looking.join()
        self._api.close()

    def gateways(self) -> list[str]:
        """Those that Kubernetes calls ready."""
        return self._gateways

    def _look(self) -> None:
        path = f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"
        selector = "kubernetes.io/service-name=qd-quarterdeck-gateway"
        while not self._stop.wait(0.5):
            try:
                slices = list(self._api.each(path, labelSelector=selector))
            except ProviderError as error:
                print(f"endpoints: {error}", file=sys.stderr)
                continue
            self._gateways = sorted(
                f"http://{endpoint['addresses'][0]}:8081"
                for each in slices
                for endpoint in each["endpoints"] or ()
                if endpoint["conditions"].get("ready")
            )

    def client(self, node: str) -> Client:
        """Of the api on a node."""
        pods = {pod["spec"]["nodeName"]: pod for pod in pods_of(self.cluster, "api")}
        assert pods.keys() == set(NODES), "the copies of the api are on one node"
        pod = pods[node]
        return Client(f"http://{pod['status']['podIP']}:8080", ADMIN_KEY, retry_seconds=60)

    def machine(self, role: str) -> tuple[str, str]:
        """Pod and node of the cluster's head, or of the one that joined."""
        (pod,) = [
            pod
            for pod in pods_of(self.cluster, "workers")
            if pod["metadata"]["labels"]["quarterdeck.io/ray-role"] == role
            and "deletionTimestamp" not in pod["metadata"]
        ]
        return pod["metadata"]["name"], pod["spec"]["nodeName"]


def until(look: Callable[[], Found | None], seconds: float, what: str) -> Found:
    """What `look` answers once it is true."""
    end = time.monotonic() + seconds
    while True:
        try:
            if found := look():
                return found
        except QuarterdeckError as error:
            print(f"{what}: {error}", file=sys.stderr)
        if time.monotonic() > end:
            raise SystemExit(f"not within {seconds:g} s: {what}")
        time.sleep(0.25)


def newest(client: Client, job: str) -> Run:
    return max(client.jobs.runs(job), key=lambda run: run.epoch)


def works(client: Client, job: str, after: int, ranks: int | None = None) -> Run | None:
    """The job's run of a later epoch than `after`, once it has done a step on so many ranks, and
    the job has a checkpoint."""
    if not client.jobs.checkpoints(job):
        return None
    run = newest(client, job)
    stepped = run.first_step is not None and (run.step or 0) >= run.first_step
    right = ranks is None or len(run.placements) == ranks
    return run if run.epoch > after and stepped and right and run.phase == "running" else None


def serving(client: Client) -> None:
    """A service of two replicas, each on its own node."""
    client.apply([
        {"kind": "service", "name": "writer", "model": "seed", "replicas": 2, "priority": 0},
    ])  # fmt: skip
    until(lambda: client.services.get("writer").ready_replicas == 2, 240, "two replicas are ready")
    nodes = {each.node_id for each in client.services.get("writer").replicas}
    assert len(nodes) == 2, client.services.get("writer")


@contextmanager
def asking(site: Site) -> Iterator[Completions]:
    clients = Completions(
        site.gateways, ADMIN_KEY, "writer", threads=3, pause=0.3, timeout=60.0, connect=3.0
    )
    until(
        lambda: not any(clients.once(url) for url in site.gateways()), 60, "all gateways answer"
    )  # fmt: skip
    with clients:
        yield clients
    for line in clients.failures:
        print(f"lost: {line}", file=sys.stderr)
    print(
        f"requests: {clients.answers} answered, {len(clients.retried)} of them retried, "
        f"{len(clients.failures)} lost; the longest took {clients.longest:.1f} s",
        flush=True,
    )


def training(name: str, **changes: Any) -> dict[str, Any]:
    """Ranks of a stage stay together: two stages of two take two of three slots on each node."""
    document = tiny(name, steps=100_000, every=20, priority=10, **changes)
    document["training"]["learning_rate"] = 1e-3
    return document


@contextmanager
def installed() -> Iterator[Site]:
    """Nodes, database and release, with a model to serve. What goes wrong shows the pods."""
    named = os.environ.get("QUARTERDECK_KUBERNETES")
    if not named or os.geteuid() != 0:
        raise SystemExit("QUARTERDECK_KUBERNETES must name the folder of start-cluster.sh; as root")
    # Its default action would leave two nodes behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    scripts = Path(named)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qd-images-")))
        images = Images(scripts, folder)
        images.quarterdeck("control", "v1")
        images.quarterdeck("worker", "v1")
        cluster = stack.enter_context(two_nodes(scripts, images))
        url, restart = stack.enter_context(server_at(HERE))
        prepare(cluster, {"database-url": url})
        done = run([scripts / "tools" / "install.sh"], capture_output=True, text=True, check=True)
        helm = Path(done.stdout.strip().splitlines()[-1]) / "helm"
        site = Site(cluster, Helm(Chart(helm, folder / "helm"), cluster), restart)
        try:
            site.install(2, ALONE)
            site.start()
            stack.callback(site.close)
            with site.client(NODES[0]) as client:
                client.apply([*training_data(CODE), tiny("seed", steps=10, every=10)])
                assert ended(client, "seed", 400).phase == "succeeded", client.jobs.get("seed")
            yield site
        except BaseException:
            print(cluster.describe(NAMESPACE), file=sys.stderr)
            raise
