"""What the chart renders, as tables over its objects; no cluster is needed."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import quarterdeck
from quarterdeck.cluster.images import for_image
from quarterdeck.specs.pools import PoolsFile
from tests.kubernetes.chart import (
    CHART,
    EXAMPLES,
    IDS,
    ROOT,
    Chart,
    Object,
    component_of,
    named,
    of_kind,
    pods,
    pools_of,
    read_all,
)
from tests.kubernetes.renders import TRIAL


@pytest.mark.parametrize("example", EXAMPLES, ids=IDS)
def test_examples_satisfy_helms_own_check(chart: Chart, example: Path) -> None:
    done = chart.helm("lint", "--strict", str(CHART), "-f", str(example))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("example", EXAMPLES, ids=IDS)
def test_rendering_twice_gives_the_same(chart: Chart, example: Path) -> None:
    assert chart.text(files=[example]) == chart.text(files=[example])


def test_examples_are_the_four_that_are_written_of() -> None:
    assert IDS == ["air-gapped", "gpu-cluster", "laptop", "production"]


# --- pods ----------------------------------------------------------------------------------------


def test_images_come_from_the_registry_that_is_named(everything: list[Object]) -> None:
    found = {c["image"] for pod in pods(everything) for c in pod.containers}
    version = quarterdeck.__version__
    assert found == {
        f"registry.test/team/quarterdeck/control:{version}",
        f"registry.test/team/quarterdeck/worker:{version}",
    }


def test_digests_go_before_tags(chart: Chart) -> None:
    digest = "sha256:" + "a" * 64
    objects = chart.objects({"image.control.digest": digest, "image.control.tag": "other"})
    found = {c["image"] for pod in pods(objects) for c in pod.containers}
    assert found == {f"registry.test/team/quarterdeck/control@{digest}"}
    trial = chart.objects(
        {**TRIAL, "database.existingSecret": "", "artifacts.uri": "",
         "postgresql.image": {"registry": "inside:5000/", "digest": digest}}
    )  # fmt: skip
    images = {
        c["image"] for pod in pods(trial) if pod.component == "postgresql" for c in pod.containers
    }
    assert images == {f"inside:5000/postgres@{digest}"}


def test_the_chart_names_no_registry() -> None:
    host = re.compile(r"\b(docker\.io|quay\.io|ghcr\.io|gcr\.io|nvcr\.io|public\.ecr|rayproject)\b")
    files = [file for file in CHART.rglob("*") if file.is_file()]
    assert len(files) > 20
    assert [file for file in files if host.search(file.read_text(encoding="utf-8"))] == []


def test_versions_are_those_of_this_tree() -> None:
    (meta,) = read_all((CHART / "Chart.yaml").read_text())
    assert meta["version"] == meta["appVersion"] == quarterdeck.__version__
    (values,) = read_all((CHART / "values.yaml").read_text())
    ray = f'"ray[default]=={values["kuberay"]["rayVersion"]}"'
    assert ray in (ROOT / "pyproject.toml").read_text()


# --- migration and upgrades ----------------------------------------------------------------------


def job(objects: list[Object]) -> Object:
    (found,) = of_kind(objects, "Job")
    return found


def test_the_migration_is_named_by_what_it_is_made_of(chart: Chart) -> None:
    usual = job(chart.objects())
    assert "annotations" not in usual["metadata"], "no hook"
    name = usual["metadata"]["name"]
    for same in ({"api.replicas": 5}, {"migration.backoffLimit": 6}, {"ingress.enabled": True}):
        assert job(chart.objects(same))["metadata"]["name"] == name
    for other in (
        {"image.control.tag": "2"},
        {"database.existingSecret": "another"},
        {"migration.extraEnv": [{"name": "A", "value": "b"}]},
    ):
        assert job(chart.objects(other))["metadata"]["name"] != name
    assert usual["spec"]["template"]["spec"]["containers"][0]["command"][:4] == [
        "quarterdeck", "db", "upgrade", "--allow-newer",
    ]  # fmt: skip


def test_the_migration_may_be_a_hook(chart: Chart) -> None:
    objects = chart.objects({"migration.hook": True})
    hooks = {
        f"{one['kind']}": int(one["metadata"]["annotations"]["helm.sh/hook-weight"])
        for one in objects
        if one["metadata"].get("annotations", {}).get("helm.sh/hook") == "pre-install,pre-upgrade"
    }
    assert hooks["ServiceAccount"] < hooks["Job"], "its pods need the account"
    assert hooks.keys() == {"ServiceAccount", "Job"}


def test_who_opens_the_database_waits_for_its_schema(everything: list[Object]) -> None:
    waiting = {
        pod.component: [c["command"][:3] for c in pod.spec.get("initContainers", ())]
        for pod in pods(everything)
    }
    wait = [["quarterdeck", "db", "wait"]]
    assert {name for name, found in waiting.items() if found == wait} == {"api", "controller"}
    api = named(everything, "Deployment", "qd-quarterdeck-api")["spec"]["template"]["spec"]
    assert "--no-migrate" in api["containers"][0]["command"]


def test_old_copies_serve_until_new_ones_do(everything: list[Object]) -> None:
    for one in of_kind(everything, "Deployment"):
        strategy = one["spec"]["strategy"]
        if component_of(one["metadata"]["labels"]) == "workers":
            assert strategy == {"type": "Recreate"}
        else:
            assert strategy["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_a_new_chart_version_alone_restarts_no_pod(everything: list[Object]) -> None:
    for pod in pods(everything):
        if pod.component != "tests":
            assert "helm.sh/chart" not in pod.template["metadata"]["labels"], pod.owner


# --- scaling and disruption ----------------------------------------------------------------------


def test_autoscalers_and_copies(everything: list[Object], chart: Chart) -> None:
    table = {
        one["spec"]["scaleTargetRef"]["name"]: (
            one["spec"]["minReplicas"], one["spec"]["maxReplicas"],
            one["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"],
        )
        for one in of_kind(everything, "HorizontalPodAutoscaler")
    }  # fmt: skip
    assert table == {"qd-quarterdeck-api": (2, 6, 70), "qd-quarterdeck-gateway": (2, 10, 70)}
    for name in table:
        assert "replicas" not in named(everything, "Deployment", name)["spec"]
    fixed = chart.objects({"api.replicas": 4})
    assert not of_kind(fixed, "HorizontalPodAutoscaler")
    assert named(fixed, "Deployment", "qd-quarterdeck-api")["spec"]["replicas"] == 4


def test_budgets_never_hold_up_a_drain_for_ever(everything: list[Object]) -> None:
    budgets = of_kind(everything, "PodDisruptionBudget")
    assert {component_of(one["spec"]["selector"]["matchLabels"]) for one in budgets} == {
        "api", "controller", "gateway",
    }  # fmt: skip
    assert {one["spec"]["maxUnavailable"] for one in budgets} == {1}


def test_copies_are_spread(everything: list[Object]) -> None:
    for name in ("api", "controller", "gateway"):
        spec = named(everything, "Deployment", f"qd-quarterdeck-{name}")["spec"]
        constraints = spec["template"]["spec"]["topologySpreadConstraints"]
        # Nodes that lack one of several keys would all count alike, and many lack a zone.
        assert [each["topologyKey"] for each in constraints] == ["kubernetes.io/hostname"], name
        for constraint in constraints:
            assert constraint["labelSelector"]["matchLabels"] == spec["selector"]["matchLabels"]


def test_selectors_find_their_own_pods_alone(everything: list[Object]) -> None:
    labels = {pod.owner: pod.template["metadata"]["labels"].items() for pod in pods(everything)}
    for one in of_kind(everything, "Deployment"):
        wanted = one["spec"]["selector"]["matchLabels"].items()
        found = [owner for owner, there in labels.items() if wanted <= there]
        assert found == [f"Deployment/{one['metadata']['name']}"]
    for one in of_kind(everything, "Service"):
        wanted = one["spec"]["selector"].items()
        found = [owner for owner, there in labels.items() if wanted <= there]
        assert found == [f"Deployment/{one['metadata']['name']}"]


# --- network policies ----------------------------------------------------------------------------


def test_the_pools_file_is_what_the_controller_reads(everything: list[Object]) -> None:
    (pool,) = pools_of(everything)
    groups: list[dict[str, Any]] = pool["groups"]
    assert (pool["name"], pool["namespace"], pool["object"]) == ("gpu", "ml", "qd-quarterdeck-gpu")
    assert (pool["project"], pool["topology"]) == ("nlp", ["example.com/rack"])
    assert groups == [
        {"name": "big", "accelerator": "H100", "slots": 8, "min_replicas": 0, "max_replicas": 2,
         "spot": True, "idle_after": "10m", "memory": "512GiB", "labels": {"rack": "a"}},
        {"name": "small", "accelerator": "cpu", "slots": 4, "min_replicas": 1, "max_replicas": 3,
         "spot": False},
    ]  # fmt: skip
    read = PoolsFile.model_validate({"pools": [pool]}).pools[0]
    assert read.groups[0].memory == 512 << 30
    made = for_image(read, "job-1", 0, "team/train:3").template["spec"]
    for one in (made["headGroupSpec"], *made["workerGroupSpecs"]):
        assert one["template"]["spec"]["containers"][0]["image"] == "team/train:3"
    cluster = pool["template"]
    assert cluster["metadata"]["annotations"] == {"ray.io/overwrite-container-cmd": "true"}
    assert cluster["spec"]["enableInTreeAutoscaling"] is False
    head = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert "--url" in head["args"] and "--join" not in head["args"]
    told = dict(pairwise(head["args"]))
    port = cluster["spec"]["headGroupSpec"]["rayStartParams"]["port"]
    assert told["--ray-port"] == port, "where wait-gcs-ready, which KubeRay adds to workers, asks"
    for one in (head, cluster["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]):
        variables = {v["name"]: v.get("value") for v in one["env"]}
        assert variables["RAY_AUTH_TOKEN_PATH"] == told["--ray-token-file"], "and with which token"
    for worker, group in zip(cluster["spec"]["workerGroupSpecs"], groups, strict=True):
        assert worker["groupName"] == group["name"]
        assert not {"replicas", "minReplicas", "maxReplicas"} & worker.keys(), (
            "sizes are not the template's: a changed template is one to be made anew"
        )
        arguments = worker["template"]["spec"]["containers"][0]["args"]
        told = dict(pairwise(arguments))
        assert told["--cluster"] == "gpu" and told["--slots"] == str(group["slots"])
        assert told["--accelerator"] == group["accelerator"]
        assert "--only-join" in arguments, "or it becomes a head where it starts before the head"
        assert told["--join"] == "http://qd-quarterdeck-api.ml.svc:8080"
    (big, small) = (w["template"]["spec"] for w in cluster["spec"]["workerGroupSpecs"])
    assert big["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": 8}
    assert "limits" not in small["containers"][0]["resources"]
    assert [one["key"] for one in big["tolerations"]][-1] == "gpu" and len(big["tolerations"]) == 3


def test_of_static_machines_one_is_the_head(everything: list[Object]) -> None:
    table = {
        one["metadata"]["name"]: (
            one["spec"]["replicas"],
            {"--url", "--join", "--only-join"}
            & set(one["spec"]["template"]["spec"]["containers"][0]["args"]),
        )
        for one in of_kind(everything, "Deployment")
        if component_of(one["metadata"]["labels"]) == "workers"
    }
    assert table == {
        "qd-quarterdeck-workers-head": (1, {"--url"}),
        "qd-quarterdeck-workers": (2, {"--join", "--only-join"}),
    }


def test_a_project_gets_the_static_machines(everything: list[Object]) -> None:
    (head,) = (one for one in of_kind(everything, "Deployment")
               if one["metadata"]["name"] == "qd-quarterdeck-workers-head")  # fmt: skip
    told = dict(pairwise(head["spec"]["template"]["spec"]["containers"][0]["args"]))
    assert told["--project"] == "cv"


def test_changed_pools_restart_the_controller(chart: Chart) -> None:
    def annotations(most: int) -> dict[str, str]:
        pools = [{"name": "a", "groups": [{"name": "b", "slots": 1, "maxReplicas": most}]}]
        deployment = named(
            chart.objects({"pools": pools}), "Deployment", "qd-quarterdeck-controller"
        )
        found: dict[str, str] = deployment["spec"]["template"]["metadata"]["annotations"]
        return found

    assert annotations(1) == annotations(1) != annotations(2)


# --- monitoring ----------------------------------------------------------------------------------
