"""The chart on two real nodes under Pod Security `restricted`: installed, tested, used, upgraded to
a version with another schema while a job runs and clients ask, rolled back, and removed."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import httpx
import pytest

from quarterdeck.client import Client
from quarterdeck.store.migrate import head_revision
from tests.kubernetes.chart import CHART, EXAMPLES, NAMESPACE, RELEASE, Chart, Object
from tests.kubernetes.cluster import Cluster, Images

ADMIN_KEY = f"qd_{secrets.token_hex(32)}"
LAPTOP = next(file for file in EXAMPLES if file.stem == "laptop")
NEXT = f'''
import sqlalchemy as sa
from alembic import op
revision, down_revision, branch_labels, depends_on = "9999", "{head_revision()}", None, None
def upgrade():
    op.create_table("of_the_next_version", sa.Column("id", sa.String(), primary_key=True))
def downgrade():
    op.drop_table("of_the_next_version")
'''


@pytest.fixture(scope="module")
def cluster(kubernetes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if os.geteuid() != 0:
        pytest.skip("nodes need root")
    images = Images(kubernetes, tmp_path_factory.mktemp("images"))
    images.quarterdeck("control", "v1")
    images.quarterdeck("control", "v2", NEXT)
    images.quarterdeck("worker", "v1")
    images.postgres("16")
    folder = Path(tempfile.mkdtemp(prefix="qd-k8s-", dir="/tmp"))  # paths of sockets are short
    cluster = Cluster(kubernetes, folder, images.made)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def prepared(cluster: Cluster) -> Cluster:
    """A namespace with the Secret and, as there is no provisioner, a volume that all can write."""
    files = Path(tempfile.mkdtemp(prefix="qd-artifacts-", dir="/tmp"))
    files.chmod(0o777)
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    secret = {
        "master-key": urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "admin-key": ADMIN_KEY,
        "agent-key": f"qd_{secrets.token_hex(32)}",
        "postgresql-password": secrets.token_hex(16),
        "ray-token": secrets.token_hex(32),
    }
    size = {"storage": "1Gi"}
    modes = ["ReadWriteMany"]
    cluster.apply(
        {"apiVersion": "v1", "kind": "Namespace",
         "metadata": {"name": NAMESPACE, "labels": labels}},
        {"apiVersion": "v1", "kind": "Secret", "stringData": secret,
         "metadata": {"name": "quarterdeck", "namespace": NAMESPACE}},
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "artifacts"},
         "spec": {"capacity": size, "accessModes": modes, "hostPath": {"path": str(files)},
                  "storageClassName": "by-hand"}},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim",
         "metadata": {"name": "artifacts", "namespace": NAMESPACE},
         "spec": {"accessModes": modes, "resources": {"requests": size},
                  "storageClassName": "by-hand"}},
    )  # fmt: skip
    return cluster


@pytest.fixture(scope="module")
def helm(chart: Chart, prepared: Cluster) -> Helm:
    return Helm(chart, prepared)


class Helm:
    """Helm with this cluster; failures show the pods and events."""

    def __init__(self, chart: Chart, cluster: Cluster) -> None:
        self._chart, self._cluster = chart, cluster

    def __call__(self, verb: str, *arguments: str) -> str:
        done: CompletedProcess[str] = self._chart.helm(
            verb, RELEASE, "-n", NAMESPACE, "--kubeconfig", str(self._cluster.kubeconfig),
            *arguments, seconds=400,
        )  # fmt: skip
        if done.returncode:
            pytest.fail(f"helm {verb}: {done.stderr}\n{self._cluster.describe(NAMESPACE)}")
        return done.stdout + done.stderr

    def apply(self, tag: str, *more: str) -> str:
        """Install, or upgrade to, a version of the control plane."""
        return self(
            "upgrade", str(CHART), "--install", "-f", str(LAPTOP), "--wait", "--timeout", "6m",
            "--set", f"image.control.tag={tag}", "--set", "image.worker.tag=v1",
            "--set", "postgresql.image.registry=localhost",
            "--set", "postgresql.persistence.enabled=false",
            "--set", "artifacts.persistence.existingClaim=artifacts",
            "--set", "workers.slots=2", "--set", "workers.resources.requests.cpu=500m", *more,
        )  # fmt: skip


def address(cluster: Cluster, component: str, port: int) -> str:
    service: Object = cluster.get("service", f"qd-quarterdeck-{component}", "-n", NAMESPACE)
    return f"http://{service['spec']['clusterIP']}:{port}"


class Asked:
    """Asks api and gateway again and again, each time by a new connection through the Service."""

    def __init__(self, *urls: str) -> None:
        self._urls = urls
        self.answers, self.failures = 0, list[str]()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Asked:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._stop.wait(0.1):
            for url in self._urls:
                try:
                    answer = httpx.get(f"{url}/readyz", timeout=10, trust_env=False)
                    if answer.status_code == 200:
                        self.answers += 1
                    else:
                        self.failures.append(f"{url}: {answer.status_code} {answer.text[:200]}")
                except httpx.HTTPError as error:
                    self.failures.append(f"{url}: {type(error).__name__}: {error}")


def ended(client: Client, job: str, seconds: float = 180) -> str:
    until = time.monotonic() + seconds
    while (found := client.jobs.get(job)).phase not in ("succeeded", "failed", "cancelled"):
        assert time.monotonic() < until, f"{found.phase}: {found.reason} {found.message}"
        time.sleep(0.5)
    return found.phase


@pytest.mark.timeout(900)
def test_from_installation_to_removal(helm: Helm, prepared: Cluster) -> None:
    notes = helm.apply("v1")
    assert "kubectl get secret quarterdeck -n ml" in notes
    helm("test", "--timeout", "3m")

    api, gateway = address(prepared, "api", 8080), address(prepared, "gateway", 8081)
    with Client(api, ADMIN_KEY, retry_seconds=30) as client:
        job = client.submit({"kind": "command", "name": "hello", "command": "echo hello"})
        assert ended(client, job.id) == "succeeded"
        assert "hello" in [line.line for line in client.jobs.logs(job.id)]

        long = client.submit({"kind": "command", "name": "long", "command": "sleep 30"})
        machines = pod_names(prepared, "workers")
        with Asked(api, gateway) as asked:
            helm.apply("v2")
            helm("rollback", "1", "--wait", "--timeout", "6m")
        assert asked.failures == []
        assert asked.answers > 50
        assert ended(client, long.id) == "succeeded"
        assert len(client.jobs.runs(long.id)) == 1, "it ran through the upgrade"
        assert pod_names(prepared, "workers") == machines
        assert client.whoami().access == "admin"

    helm("uninstall", "--wait", "--timeout", "3m")
    until = time.monotonic() + 120
    while left := prepared.get("pods", "-n", NAMESPACE)["items"]:
        assert time.monotonic() < until, [pod["metadata"]["name"] for pod in left]
        time.sleep(1)
    kept = prepared.get("pvc,secret", "-n", NAMESPACE)["items"]
    assert {(one["kind"], one["metadata"]["name"]) for one in kept} >= {
        ("PersistentVolumeClaim", "artifacts"), ("Secret", "quarterdeck"),
    }  # fmt: skip


def pod_names(cluster: Cluster, component: str) -> set[str]:
    selector = f"app.kubernetes.io/component={component}"
    return {
        pod["metadata"]["name"]
        for pod in cluster.get("pods", "-n", NAMESPACE, "-l", selector)["items"]
    }


SMALL = {"requests": {"cpu": "200m", "memory": "1Gi"}, "limits": {"memory": "4Gi"}}
POOLS = [
    {
        "name": "pool",
        "head": {"resources": SMALL},
        "groups": [{"name": "small", "slots": 2, "maxReplicas": 1, "resources": SMALL}],
    }
]


@pytest.mark.timeout(900)
def test_a_pool_brings_a_machine_for_a_job(helm: Helm, prepared: Cluster) -> None:
    """With the real operator: its container `wait-gcs-ready` lets the worker start, which joins by
    the api's ticket."""
    with prepared.kuberay():
        try:
            helm.apply(
                "v1", "--set-json", f"pools={json.dumps(POOLS)}",
                "--set-json", "workers.enabled=false", "--set", "rbac.nodes=true",
            )  # fmt: skip
            with Client(address(prepared, "api", 8080), ADMIN_KEY, retry_seconds=30) as client:
                job = client.submit({"kind": "command", "name": "hello", "command": "hostname"})
                assert ended(client, job.id, 400) == "succeeded", prepared.describe(NAMESPACE)
                (host,) = {line.line for line in client.jobs.logs(job.id)}
            workers = prepared.get("pods", "-n", NAMESPACE, "-l", "ray.io/group=small")["items"]
            assert host in {pod["metadata"]["name"] for pod in workers}
        finally:
            helm("uninstall", "--wait", "--timeout", "3m")
            name = f"{RELEASE}-quarterdeck-pool"
            prepared.kubectl("delete", "raycluster", name, "-n", NAMESPACE, "--ignore-not-found")
