"""The chart on two real nodes under Pod Security `restricted`: installed, tested, used, upgraded to
a version with another schema while a job runs and clients ask, rolled back, restored from a copy,
and removed."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

import httpx
import pytest

from quarterdeck.client import Client
from quarterdeck.client.errors import NotFound
from quarterdeck.specs.resources import Job
from quarterdeck.store.migrate import head_revision
from tests.kubernetes.asking import Completions, Readiness
from tests.kubernetes.chart import NAMESPACE, RELEASE, Chart
from tests.kubernetes.cluster import Cluster, Images, postgres_programs, two_nodes
from tests.kubernetes.release import (
    ADMIN_KEY,
    Helm,
    address,
    ended,
    hosts_of,
    node_of,
    pods_of,
    prepare,
    tiny,
    training_data,
)

STEPS = 30
TINY = tiny("tiny", steps=STEPS, every=10)
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
    images.quarterdeck("worker", "own")
    images.postgres("16")
    with two_nodes(kubernetes, images) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def prepared(cluster: Cluster) -> Cluster:
    prepare(cluster)
    return cluster


@pytest.fixture(scope="module")
def helm(chart: Chart, prepared: Cluster) -> Helm:
    return Helm(chart, prepared)


@pytest.mark.timeout(900)
def test_from_installation_to_removal(helm: Helm, prepared: Cluster, tmp_path: Path) -> None:
    notes = helm.apply("v1", "--set", "workers.replicas=2")
    assert "kubectl get secret quarterdeck -n ml" in notes
    helm("test", "--timeout", "3m")

    api, gateway = address(prepared, "api", 8080), address(prepared, "gateway", 8081)
    with Client(api, ADMIN_KEY, retry_seconds=30) as client:
        job = client.submit({"kind": "command", "name": "hello", "command": "echo hello"})
        assert ended(client, job.id).phase == "succeeded"
        assert "hello" in [line.line for line in client.jobs.logs(job.id)]
        trains_on_both_nodes(client, prepared)
        serves(client, gateway)
        found = prepared.kubectl(
            "exec", "-n", NAMESPACE, "deploy/qd-quarterdeck-api", "--", "quarterdeck", "doctor"
        )
        assert "FAIL" not in found and "invariants" not in found, found
        assert "leases" in found, "the invariants were looked at"

        copies = copied(prepared, tmp_path)
        long = client.submit({"kind": "command", "name": "long", "command": "sleep 30"})
        machines = pod_names(prepared, "workers")
        with (
            Readiness(api, gateway) as ready,
            Completions(lambda: [gateway], ADMIN_KEY, "writer") as asked,
        ):
            helm.apply("v2", "--set", "workers.replicas=2")
            helm("rollback", "1", "--wait", "--timeout", "6m")
        assert (ready.failures, asked.failures) == ([], [])
        assert ready.answers > 25
        assert asked.answers > 25
        assert ended(client, long.id).phase == "succeeded"
        assert len(client.jobs.runs(long.id)) == 1, "it ran through the upgrade"
        assert pod_names(prepared, "workers") == machines
        assert client.whoami().access == "admin"
        through = client.submit({"kind": "command", "name": "through", "command": "sleep 600"})
        reaches(client, through.id, "running")
        restored(helm, prepared, copies, gateway)
        assert client.whoami().access == "admin"
        with pytest.raises(NotFound):  # it is of after the copy, and had ended
            client.jobs.get(long.id)
        reaches(client, through.id, "running")  # the copy does not know it: its machine told
        assert len(client.jobs.runs(through.id)) == 1, "it ran through the restore"
        client.jobs.cancel(through.id)
        assert ended(client, through.id).phase == "cancelled"

    helm("uninstall", "--wait", "--timeout", "3m")
    until = time.monotonic() + 120
    while left := prepared.get("pods", "-n", NAMESPACE)["items"]:
        assert time.monotonic() < until, [pod["metadata"]["name"] for pod in left]
        time.sleep(1)
    assert what_is_left(prepared) == LEFT


def trains_on_both_nodes(client: Client, cluster: Cluster) -> None:
    """Four ranks on machines of two slots each: their gradients go from pod to pod."""
    client.apply([*training_data("/opt/quarterdeck/platform/quarterdeck/cli"), TINY])
    assert ended(client, "tokens").phase == "succeeded"
    job = ended(client, "tiny", 240)
    assert job.phase == "succeeded", (job.reason, job.message, job.failure)
    (run,) = client.jobs.runs("tiny")
    hosts = hosts_of(client, run)
    assert hosts == pod_names(cluster, "workers")
    assert {node_of(cluster, host) for host in hosts} == {"node1", "node2"}
    losses = {point.step: point.values["loss"] for point in client.jobs.metrics("tiny")}
    assert losses[STEPS] < losses[1] - 0.2


def serves(client: Client, gateway: str) -> None:
    """Two replicas of the trained model, which both answer through the gateway's Service."""
    client.apply([{"kind": "service", "name": "writer", "model": "tiny", "replicas": 2}])
    assert client.wait_for_service("writer", timeout=180).ready_replicas == 2
    body = {"model": "writer", "prompt": "def ", "max_tokens": 8, "temperature": 0}
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    texts, replicas, until = set[str](), set[str](), time.monotonic() + 60
    while len(replicas) < 2:
        assert time.monotonic() < until, replicas
        answer = httpx.post(
            f"{gateway}/v1/completions", json=body, headers=headers, timeout=60, trust_env=False
        )
        if answer.status_code == 404:  # it has not heard of the service yet
            continue
        assert answer.status_code == 200, answer.text
        texts.add(answer.json()["choices"][0]["text"])
        replicas.add(answer.headers["x-quarterdeck-replica"])
    assert len(texts) == 1
    assert texts != {""}


class Copies(NamedTuple):
    """Of database and artifacts, in files of this machine."""

    database: Path
    artifacts: Path


TOOLS = f"PATH={postgres_programs()}:$PATH"
"""PostgreSQL's client programs, which images have."""
STORE = "/var/lib/quarterdeck-artifacts"


def copied(cluster: Cluster, folder: Path) -> Copies:
    """By a pod of the api, as the documentation says."""
    copies = Copies(folder / "backup", folder / "artifacts.tar.gz")
    inside(cluster, "api", "quarterdeck db backup /tmp/backup")
    with copies.database.open("wb") as file:
        inside(cluster, "api", "cat /tmp/backup", stdout=file)
    with copies.artifacts.open("wb") as file:
        inside(cluster, "api", f"cd {STORE} && tar -cz *", stdout=file)
    return copies


def restored(helm: Helm, cluster: Cluster, copies: Copies, gateway: str) -> None:
    """Lose the artifacts and bring both back, while clients ask a service and a job runs."""
    with Completions(lambda: [gateway], ADMIN_KEY, "writer") as asked:
        helm.apply("v1", "--set", "workers.replicas=2", "--set", "maintenance.enabled=true")
        inside(cluster, "maintenance", f"rm -r {STORE}/*")
        with copies.artifacts.open("rb") as file:
            inside(cluster, "maintenance", f"tar -C {STORE} -xz", stdin=file)
        with copies.database.open("rb") as file:
            inside(cluster, "maintenance", "cat > /tmp/backup", stdin=file)
        said = inside(cluster, "maintenance", "quarterdeck db restore --timeout 60 /tmp/backup")
        assert "generation 1" in said, said
        assert "forgotten" not in said, "the checkpoints are back"
        helm.apply("v1", "--set", "workers.replicas=2")
    assert asked.failures == []
    assert asked.answers > 25


def inside(
    cluster: Cluster, component: str, command: str, *, stdin: IO[bytes] | None = None,
    stdout: IO[bytes] | int = subprocess.PIPE,
) -> str:  # fmt: skip
    """What a command in a component's pod says, on both streams."""
    return cluster.exec(
        f"deploy/qd-quarterdeck-{component}", f"{TOOLS}; {command}", NAMESPACE,
        stdin=stdin, stdout=stdout,
    )  # fmt: skip


def reaches(client: Client, job: str, phase: str) -> None:
    found, until = "no such job", time.monotonic() + 60
    while found != phase:
        assert time.monotonic() < until, found
        time.sleep(0.5)
        with suppress(NotFound):
            found = client.jobs.get(job).phase


def pod_names(cluster: Cluster, component: str) -> set[str]:
    return {pod["metadata"]["name"] for pod in pods_of(cluster, component)}


LEFT = {
    "configmap/kube-root-ca.crt", "serviceaccount/default", "secret/quarterdeck",
    "persistentvolumeclaim/artifacts",
}  # fmt: skip
"""What Kubernetes puts into every namespace, and what the test made itself."""


def what_is_left(cluster: Cluster) -> set[str]:
    """Every object of the namespace but events, and those of the whole cluster that are the
    release's."""
    inside, outside = (
        cluster.kubectl("api-resources", "--verbs=list", f"--namespaced={where}", "-o", "name")
        for where in ("true", "false")
    )
    kinds = ",".join(kind for kind in inside.split() if not kind.startswith("events"))
    found = cluster.kubectl("get", kinds, "-n", NAMESPACE, "-o", "name")
    mine = f"app.kubernetes.io/instance={RELEASE}"
    found += cluster.kubectl("get", ",".join(outside.split()), "-l", mine, "-o", "name")
    return set(found.split())


IMAGE = "localhost/quarterdeck/worker:own"


def runs_in_its_own_image(client: Client, cluster: Cluster, job: Job) -> None:
    """A cluster of its own comes for the run, with real agents in the image, and goes after it."""
    until = time.monotonic() + 300
    while client.jobs.get(job.id).phase != "running":
        assert time.monotonic() < until, client.jobs.get(job.id)
        time.sleep(0.5)
    (host,) = hosts_of(client, client.jobs.runs(job.id)[0])
    pod = cluster.get("pod", host, "-n", NAMESPACE)
    assert pod["spec"]["containers"][0]["image"] == IMAGE
    client.jobs.cancel(job.id)
    assert ended(client, job.id).phase == "cancelled"
    until = time.monotonic() + 180
    while len(made := cluster.get("rayclusters", "-n", NAMESPACE)["items"]) > 1:
        assert time.monotonic() < until, [one["metadata"]["name"] for one in made]
        time.sleep(1)


SMALL = {"requests": {"cpu": "200m", "memory": "1Gi"}, "limits": {"memory": "4Gi"}}
POOLS = [
    {
        "name": "pool",
        "head": {"resources": SMALL},
        "groups": [{"name": "small", "slots": 2, "maxReplicas": 2, "resources": SMALL}],
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
                own = client.submit(
                    {"kind": "command", "name": "own", "command": "sleep 600",
                     "environment": {"image": IMAGE}}
                )  # fmt: skip
                job = client.submit({"kind": "command", "name": "hello", "command": "hostname"})
                assert ended(client, job.id, 400).phase == "succeeded", prepared.describe(NAMESPACE)
                (host,) = {line.line for line in client.jobs.logs(job.id)}
                workers = prepared.get("pods", "-n", NAMESPACE, "-l", "ray.io/group=small")["items"]
                assert host in {pod["metadata"]["name"] for pod in workers}
                runs_in_its_own_image(client, prepared, own)
        finally:
            helm("uninstall", "--wait", "--timeout", "3m")
            name = f"{RELEASE}-quarterdeck-pool"
            prepared.kubectl("delete", "raycluster", name, "-n", NAMESPACE, "--ignore-not-found")
