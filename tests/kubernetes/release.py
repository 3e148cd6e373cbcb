"""A release of the chart on a cluster: prepared, installed, asked where it is."""

from __future__ import annotations

import secrets
import tempfile
import time
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from quarterdeck.client import Client
from quarterdeck.specs.resources import Job, Run
from tests.kubernetes.chart import CHART, EXAMPLES, NAMESPACE, RELEASE, Chart, Object
from tests.kubernetes.cluster import Cluster

ADMIN_KEY = f"qd_{secrets.token_hex(32)}"
LAPTOP = next(file for file in EXAMPLES if file.stem == "laptop")
ENDED = ("succeeded", "failed", "cancelled")


def prepare(cluster: Cluster, more: Mapping[str, str] | None = None) -> None:
    """Make the namespace, under Pod Security `restricted`, with the Secret (and `more` entries of
    it) and, as there is no provisioner, a volume that all nodes can write."""
    files = Path(tempfile.mkdtemp(prefix="qd-artifacts-", dir="/tmp"))
    cluster.folders.append(files)
    files.chmod(0o777)
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    secret = {
        "master-key": urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "admin-key": ADMIN_KEY,
        "agent-key": f"qd_{secrets.token_hex(32)}",
        "postgresql-password": secrets.token_hex(16),
        "ray-token": secrets.token_hex(32),
        **(more or {}),
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
            raise AssertionError(f"helm {verb}: {done.stderr}\n{self._cluster.describe(NAMESPACE)}")
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
    """URL of a component's Service."""
    service: Object = cluster.get("service", f"qd-quarterdeck-{component}", "-n", NAMESPACE)
    return f"http://{service['spec']['clusterIP']}:{port}"


def pods_of(cluster: Cluster, component: str) -> list[Object]:
    """A component's pods, those that are being deleted too."""
    selector = f"app.kubernetes.io/component={component}"
    found: list[Object] = cluster.get("pods", "-n", NAMESPACE, "-l", selector)["items"]
    return found


def node_of(cluster: Cluster, pod: str) -> str:
    """On which machine of the cluster a pod is."""
    found: str = cluster.get("pod", pod, "-n", NAMESPACE)["spec"]["nodeName"]
    return found


def hosts_of(client: Client, run: Run) -> set[str]:
    """The pods that a run's ranks are placed on."""
    hosts = {node.id: node.host for node in client.nodes.list()}
    return {hosts[place.node_id] for place in run.placements}


def ended(client: Client, job: str, seconds: float = 180) -> Job:
    """The job once it has ended."""
    until = time.monotonic() + seconds
    while (found := client.jobs.get(job)).phase not in ENDED:
        assert time.monotonic() < until, f"{found.phase}: {found.reason} {found.message}"
        time.sleep(0.5)
    return found


def training_data(folder: str) -> list[Object]:
    """Documents of dataset `text`, tokenizer job `bpe` and token job `tokens`, from Python files in
    a folder of the worker's image."""
    return [
        {"kind": "dataset", "name": "text", "uri": f"file://{folder}", "include": ["**/*.py"]},
        {"kind": "tokenizer", "name": "bpe", "dataset": "text", "vocabulary": 512},
        {"kind": "data", "name": "tokens", "datasets": "text", "tokenizer": "job/bpe"},
    ]


def tiny(name: str, *, steps: int, every: int, **changes: Any) -> Object:
    """A `pretrain` document over `tokens`: 2 data × 2 pipeline ranks."""
    return {
        "kind": "pretrain", "name": name, "tokenizer": "job/bpe", "datasets": "job/tokens",
        "architecture": {
            "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
        },
        "parallelism": {"data": 2, "pipeline": 2},
        "training": {
            "steps": steps, "sequence_length": 64, "global_batch_size": 8, "learning_rate": 1e-2,
            "warmup_steps": 4,
        },
        "checkpoints": {"every": every, "keep_last": 2},
        **changes,
    }  # fmt: skip
