"""The chart's objects before a real API server, with every CRD that they may use."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.kubernetes.chart import (
    CHART,
    EXAMPLES,
    IDS,
    LEAST,
    NAMESPACE,
    RELEASE,
    Chart,
    Object,
    component_of,
    named,
    of_kind,
    pods,
    rayclusters,
)
from tests.kubernetes.renders import EVERYTHING, TRIAL
from tests.kubernetes.server import Server

ACCOUNTS = (
    "api", "controller", "gateway", "migration", "pools", "postgresql", "tests", "workers",
)  # fmt: skip


def bare_pods(objects: Sequence[Object]) -> list[Object]:
    """Pods as their owners would make them: the API server admits only those in earnest."""
    made = []
    for number, pod in enumerate(pods(objects)):
        meta = {**pod.template["metadata"], "name": f"pod-{number}", "namespace": NAMESPACE}
        claims = [{"name": claim, "emptyDir": {}} for claim in pod.claims]
        spec = {**pod.spec, "volumes": [*pod.spec["volumes"], *claims]}
        made.append({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
    return made


@pytest.mark.parametrize("example", EXAMPLES, ids=IDS)
def test_every_object_of_an_example_is_accepted(
    chart: Chart, server: Server, example: Path
) -> None:
    objects = chart.objects(files=[example])
    assert server.dry_run([*objects, *rayclusters(objects), *bare_pods(objects)]) == ""


@pytest.mark.parametrize("maintenance", [False, True])
def test_every_option_is_accepted(chart: Chart, server: Server, maintenance: bool) -> None:
    values = {
        **EVERYTHING,
        "httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}]},
        "maintenance.enabled": maintenance,
    }
    objects = chart.objects(values)
    assert server.dry_run([*objects, *rayclusters(objects), *bare_pods(objects)]) == ""


def test_the_server_would_refuse(chart: Chart, server: Server) -> None:
    """What the tests above rely on: strict fields, CEL rules, Pod Security."""
    objects = chart.objects(
        {**EVERYTHING, "api.extraVolumes": [{"name": "x", "hostPath": {"path": "/"}}]}
    )
    assert 'restricted volume type "hostPath"' in server.dry_run(bare_pods(objects))
    deployment = named(objects, "Deployment", "qd-quarterdeck-api")
    deployment["spec"]["replica"] = 3
    assert "replica" in server.dry_run([deployment])
    (cluster,) = rayclusters(objects)
    cluster["spec"]["workerGroupSpecs"][0]["replicas"] = "many"
    assert "replicas" in server.dry_run([cluster])


@pytest.mark.parametrize("example", EXAMPLES, ids=IDS)
def test_kubeconform_agrees(chart: Chart, tools: Path, example: Path) -> None:
    schemas = f"{tools}/schemas/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"
    done = subprocess.run(
        [tools / "kubeconform", "-strict", "-summary", "-schema-location", schemas, "-"],
        input=chart.text(files=[example]), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Invalid: 0, Errors: 0, Skipped: 0" in done.stdout


def test_helm_finds_kuberay_on_the_server(chart: Chart, server: Server) -> None:
    example = next(file for file in EXAMPLES if file.stem == "gpu-cluster")
    done = chart.helm(
        "install", RELEASE, str(CHART), "-n", NAMESPACE, "-f", str(example), "--dry-run=server",
        "--kubeconfig", str(server.kubeconfig),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "kubectl get secret quarterdeck-keys -n ml" in done.stdout, "the notes name the key"


def test_only_what_holds_data_outlives_the_release(chart: Chart, server: Server) -> None:
    """Claims of StatefulSets are made by a controller, which this server has not."""
    server.kubectl("create", "namespace", "passing")
    arguments = ("-n", "passing", "--kubeconfig", str(server.kubeconfig))
    full = {**EVERYTHING, "artifacts.uri": "", "artifacts.existingSecret": ""}
    for release, values in (("full", full), ("trial", TRIAL)):
        given = [f"{path}={json.dumps(value)}" for path, value in values.items()]
        given.append("artifacts.persistence.enabled=true")
        sets = [word for one in given for word in ("--set-json", one)]
        for verb in (("install", str(CHART), *sets), ("uninstall",)):
            done = chart.helm(verb[0], release, *verb[1:], *arguments)
            assert done.returncode == 0, done.stderr
        kept = f"PersistentVolumeClaim/{release}-quarterdeck-artifacts"
        assert server.instances(release) == {kept}


# --- rights --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def accounts(chart: Chart, server: Server, trial: list[Object]) -> dict[str, str]:
    """Users by component, with the rights that the chart gives them."""
    own = [one for one in trial if component_of(one["metadata"]["labels"]) == "postgresql"]
    objects = [*own, *chart.objects(EVERYTHING)]
    server.apply(
        of_kind(
            objects, "ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"
        )
    )
    return {name: f"system:serviceaccount:{NAMESPACE}:qd-quarterdeck-{name}" for name in ACCOUNTS}


def of(group: str, resource: str, *verbs: str) -> set[tuple[str, str, str]]:
    return {(verb, group, resource) for verb in verbs}


ANYBODY = f"system:serviceaccount:{NAMESPACE}:nobody-gave-it-anything"
CONTROLLER = (
    of("ray.io", "rayclusters", "get", "list", "create", "patch", "delete")
    | of("", "pods", "list", "delete")
    | of("", "events", "list")
    | of("", "nodes", "get", "list")
)


def test_nobody_but_the_controller_has_rights(server: Server, accounts: dict[str, str]) -> None:
    usual = server.rights(ANYBODY)
    for name, user in accounts.items():
        wanted = CONTROLLER if name == "controller" else set()
        assert server.rights(user) - usual == wanted, name


@pytest.mark.parametrize(
    ("verb", "resource", "namespace", "may"),
    [
        ("create", "rayclusters.ray.io", NAMESPACE, True),
        ("list", "nodes", NAMESPACE, True),
        ("create", "rayclusters.ray.io", "default", False),
        ("list", "rayclusters.ray.io", "default", False),
        ("update", "rayclusters.ray.io", NAMESPACE, False),
        ("delete", "rayclusters.ray.io", NAMESPACE, True),
        ("delete", "rayclusters.ray.io", "default", False),
        ("get", "pods", NAMESPACE, False),
        ("deletecollection", "rayclusters.ray.io", NAMESPACE, False),
        ("create", "rayjobs.ray.io", NAMESPACE, False),
        ("get", "secrets", NAMESPACE, False),
        ("list", "configmaps", NAMESPACE, False),
        ("create", "pods", NAMESPACE, False),
        ("create", "pods/exec", NAMESPACE, False),
        ("get", "pods", "kube-system", False),
        ("patch", "nodes", NAMESPACE, False),
        ("create", "serviceaccounts/token", NAMESPACE, False),
        ("bind", "roles.rbac.authorization.k8s.io", NAMESPACE, False),
    ],
)
def test_what_the_controller_may(
    server: Server, accounts: dict[str, str], verb: str, resource: str, namespace: str, may: bool
) -> None:
    assert server.may(accounts["controller"], verb, resource, namespace) is may


def test_without_the_option_nodes_are_not_read(chart: Chart) -> None:
    objects = chart.objects({**EVERYTHING, "rbac.nodes": False})
    assert not of_kind(objects, "ClusterRole", "ClusterRoleBinding")
    assert of_kind(objects, "Role")
    assert not of_kind(chart.objects(LEAST), "Role", "ClusterRole")
