"""What the chart renders, as tables over its objects; no cluster is needed."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import quarterdeck
from quarterdeck.api.monitoring import Monitoring
from quarterdeck.controller.health import Health
from quarterdeck.gateway.metrics import GatewayMetrics
from quarterdeck.specs.pools import PoolsFile
from tests.kubernetes.chart import (
    CHART,
    EXAMPLES,
    LEAST,
    ROOT,
    Chart,
    Object,
    Pod,
    component_of,
    named,
    of_kind,
    pods,
    pools_of,
    read_all,
)

IDS = [file.stem for file in EXAMPLES]
EVERYTHING = {
    **LEAST,
    "workers.enabled": True,
    "workers.replicas": 3,
    "api.autoscaling.enabled": True,
    "gateway.autoscaling.enabled": True,
    "ingress.enabled": True,
    "rbac.nodes": True,
    "artifacts.existingSecret": "artifacts",
    "tracing.endpoint": "http://collector:4318",
    "tracing.existingSecret": "tracing",
    "monitoring.serviceMonitor.enabled": True,
    "monitoring.podMonitor.enabled": True,
    "monitoring.prometheusRule.enabled": True,
    "monitoring.dashboards.enabled": True,
    "pools": [{"name": "gpu", "groups": [
        {"name": "big", "accelerator": "H100", "slots": 8, "maxReplicas": 2, "spot": True,
         "idleAfter": "10m", "memory": "512GiB", "labels": {"rack": "a"},
         "tolerations": [{"key": "gpu", "operator": "Exists"}]},
        {"name": "small", "slots": 4, "minReplicas": 1, "maxReplicas": 3},
    ]}],
}  # fmt: skip
TRIAL = {
    "image.registry": "localhost",
    "keys.existingSecret": "keys",
    "postgresql.enabled": True,
    "postgresql.existingSecret": "password",
    "artifacts.persistence.enabled": True,
    "workers.enabled": True,
}


@pytest.fixture(scope="module")
def everything(chart: Chart) -> list[Object]:
    """With every option that does not exclude another."""
    return chart.objects(EVERYTHING)


@pytest.fixture(scope="module")
def trial(chart: Chart) -> list[Object]:
    """The included database and a volume for artifacts."""
    done = chart.template(TRIAL)
    assert done.returncode == 0, done.stderr
    return read_all(done.stdout)


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


def every_pod(*renders: list[Object]) -> list[Pod]:
    return [pod for objects in renders for pod in pods(objects)]


def test_every_pod_is_confined(everything: list[Object], trial: list[Object]) -> None:
    seen = set()
    for pod in every_pod(everything, trial):
        seen.add(pod.component)
        security, spec = pod.spec["securityContext"], pod.spec
        user = 999 if pod.component == "postgresql" else 10001
        assert [security[f] for f in ("runAsUser", "runAsGroup", "fsGroup")] == [user] * 3, pod
        assert security["runAsNonRoot"] is True
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["enableServiceLinks"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        assert not [volume for volume in spec["volumes"] if "hostPath" in volume]
        for container in pod.containers:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, pod.owner
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}, pod.owner
            mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
            assert "/tmp" in mounted
            assert pod.component == "postgresql" or "/var/lib/quarterdeck" in mounted
            variables = {one["name"]: one.get("value") for one in container.get("env", ())}
            # The volume is root's, the home must be the process's own.
            assert variables.get("QUARTERDECK_HOME") in (None, "/var/lib/quarterdeck/home")
    assert seen == {
        "api", "controller", "gateway", "migration", "workers", "pools", "postgresql", "tests",
    }  # fmt: skip


def test_only_the_controller_talks_to_kubernetes_and_only_with_pools(
    everything: list[Object], trial: list[Object]
) -> None:
    def talking(objects: list[Object]) -> set[str]:
        return {p.component for p in pods(objects) if p.spec["automountServiceAccountToken"]}

    assert talking(everything) == {"controller"}
    assert talking(trial) == set()
    assert not of_kind(trial, "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")
    accounts = of_kind(everything, "ServiceAccount")
    assert {component_of(one["metadata"]["labels"]) for one in accounts} == {
        "api", "controller", "gateway", "migration", "workers", "pools", "tests",
    }  # fmt: skip
    assert not any(one["automountServiceAccountToken"] for one in accounts)
    used = {pod.component: pod.spec["serviceAccountName"] for pod in pods(everything)}
    assert len(set(used.values())) == len(used), "components share a service account"
    assert set(used.values()) == {one["metadata"]["name"] for one in accounts}


def secrets_of(pod: Pod) -> set[str]:
    """`secret/entry` of all that a pod can read."""
    mounted = {
        f"{volume['secret']['secretName']}/{item['key']}"
        for volume in pod.spec["volumes"]
        if "secret" in volume
        for item in volume["secret"]["items"]
    }
    variables = {
        f"{ref['name']}/{ref['key']}"
        for container in pod.containers
        for variable in container.get("env", ())
        if (ref := variable.get("valueFrom", {}).get("secretKeyRef"))
    }
    return mounted | variables


OPENS = {"database/database-url", "artifacts/artifacts-options"}
ALL_KEYS = {"keys/master-key", "keys/admin-key", "keys/agent-key"}


def test_pods_see_the_entries_of_secrets_that_they_need(
    everything: list[Object], trial: list[Object]
) -> None:
    def table(objects: list[Object]) -> dict[str, set[str]]:
        return {pod.component: secrets_of(pod) for pod in pods(objects)}

    assert table(everything) == {
        "api": OPENS | ALL_KEYS,
        "controller": OPENS,
        "gateway": {"keys/agent-key", "tracing/otlp-headers"},
        "migration": OPENS,
        "workers": {"keys/agent-key"},
        "pools": {"keys/agent-key", "keys/ray-token"},
        "tests": {"keys/admin-key"},
    }
    password = {"password/postgresql-password"}
    assert table(trial) == {
        "api": password | ALL_KEYS,
        "controller": password,
        "gateway": {"keys/agent-key"},
        "migration": password,
        "postgresql": password,
        "workers": {"keys/agent-key"},
        "tests": {"keys/admin-key"},
    }


def test_secrets_are_readable_by_owner_and_group_alone(
    everything: list[Object], trial: list[Object]
) -> None:
    modes = {
        volume["secret"]["defaultMode"]
        for pod in every_pod(everything, trial)
        for volume in pod.spec["volumes"]
        if "secret" in volume
    }
    assert modes == {0o440}, "as YAML 1.2 reads it, which knows no 0440"


def test_probes_are_on(everything: list[Object], trial: list[Object]) -> None:
    three = {"startupProbe", "readinessProbe", "livenessProbe"}
    for pod in every_pod(everything, trial):
        if pod.component in ("migration", "tests"):
            continue
        probes = {name for name in pod.spec["containers"][0] if name.endswith("Probe")}
        # An agent must outlive an api that is away; KubeRay would fill an empty place with its own.
        wanted = {"workers": {"readinessProbe"}, "pools": {"readinessProbe", "livenessProbe"}}
        assert probes == wanted.get(pod.component, three), pod.owner


def test_times_of_probes_can_be_changed(chart: Chart) -> None:
    objects = chart.objects({"api.probes": {"startup": {"failureThreshold": 9}}})
    container = named(objects, "Deployment", "qd-quarterdeck-api")["spec"]["template"]["spec"][
        "containers"
    ][0]
    assert container["startupProbe"]["failureThreshold"] == 9
    assert container["startupProbe"]["periodSeconds"] == 2


# --- images --------------------------------------------------------------------------------------


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
        for constraint in spec["template"]["spec"]["topologySpreadConstraints"]:
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


def peers(rule: Object, direction: str) -> set[str]:
    """`component:port` of a rule; * for anybody and any port."""
    who = [
        component_of(peer["podSelector"]["matchLabels"]) if "podSelector" in peer else str(peer)
        for peer in rule.get(direction, ())
    ] or ["*"]
    ports = [str(port["port"]) for port in rule.get("ports", ())] or ["*"]
    return {f"{one}:{port}" for one in who for port in ports}


def network(objects: list[Object]) -> dict[str, tuple[set[str], set[str]]]:
    table = {}
    for policy in of_kind(objects, "NetworkPolicy"):
        spec = policy["spec"]
        assert spec["policyTypes"] == ["Ingress", "Egress"]
        into = [peers(rule, "from") for rule in spec.get("ingress", ())]
        out = [peers(rule, "to") for rule in spec.get("egress", ())]
        table[policy["metadata"]["name"].removeprefix("qd-quarterdeck-")] = (
            set().union(*into), set().union(*out),
        )  # fmt: skip
    return table


def test_network_policies(everything: list[Object], trial: list[Object]) -> None:
    stores = {"*:5432", "*:443"}
    machines = ({"workers:*", "gateway:*"}, {"workers:*", "api:8080", "*:443"})
    assert network(everything) == {
        "default-deny": (set(), {"*:53"}),
        "api": ({"*:8080"}, stores),
        "controller": ({"*:8082"}, {*stores, "*:6443"}),
        "gateway": ({"*:8081"}, {"api:8080", "workers:*", "pools:*", "*:4318"}),
        "migration": (set(), {"*:5432"}),
        "tests": (set(), {"api:8080", "gateway:8081"}),
        "workers-static": machines,
        "pools-gpu": tuple({one.replace("workers", "pools") for one in side} for side in machines),
    }
    table = network(trial)
    assert table["postgresql"] == ({f"{c}:5432" for c in ("api", "controller", "migration")}, set())
    assert table["api"] == ({"*:8080"}, {"postgresql:5432"})
    assert table["workers-static"][1] == {"workers:*", "api:8080"}
    deny = named(everything, "NetworkPolicy", "qd-quarterdeck-default-deny")["spec"]
    for pod in pods(everything):
        labels = pod.template["metadata"]["labels"]
        assert deny["podSelector"]["matchLabels"].items() <= labels.items(), pod.owner


def test_clients_can_be_named(chart: Chart) -> None:
    outside = {"namespaceSelector": {"matchLabels": {"a": "b"}}}
    prometheus = {"namespaceSelector": {"matchLabels": {"c": "d"}}}
    objects = chart.objects(
        {"networkPolicies.clients": [outside], "networkPolicies.metrics": [prometheus]}
    )
    table = network(objects)
    theirs = {f"{outside}:8080", f"{prometheus}:8080"}
    assert table["api"][0] == theirs | {
        f"{c}:8080" for c in ("gateway", "tests", "workers", "pools")
    }
    assert table["controller"][0] == {f"{prometheus}:8082"}


def test_a_cluster_of_machines_is_closed_to_other_clusters(everything: list[Object]) -> None:
    policy = named(everything, "NetworkPolicy", "qd-quarterdeck-pools-gpu")["spec"]
    own = policy["podSelector"]["matchLabels"]
    assert own["quarterdeck.io/cluster"] == "gpu"
    assert policy["ingress"][0]["from"][0]["podSelector"]["matchLabels"] == own


# --- pools ---------------------------------------------------------------------------------------


def test_the_pools_file_is_what_the_controller_reads(everything: list[Object]) -> None:
    (pool,) = pools_of(everything)
    groups: list[dict[str, Any]] = pool["groups"]
    assert (pool["name"], pool["namespace"], pool["object"]) == ("gpu", "ml", "qd-quarterdeck-gpu")
    assert groups == [
        {"name": "big", "accelerator": "H100", "slots": 8, "min_replicas": 0, "max_replicas": 2,
         "spot": True, "idle_after": "10m", "memory": "512GiB", "labels": {"rack": "a"}},
        {"name": "small", "accelerator": "cpu", "slots": 4, "min_replicas": 1, "max_replicas": 3,
         "spot": False},
    ]  # fmt: skip
    assert PoolsFile.model_validate({"pools": [pool]}).pools[0].groups[0].memory == 512 << 30
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


def known_metrics() -> set[str]:
    """Names of series that processes have."""
    found = set()
    for registry in (Monitoring().registry, GatewayMetrics().registry, Health().registry):
        for metric in registry.collect():
            suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
            found |= {metric.name + end for end in suffixes.get(metric.type, [""])}
    return found


def test_rules_and_dashboards_ask_for_metrics_that_exist(everything: list[Object]) -> None:
    rules = of_kind(everything, "PrometheusRule")[0]["spec"]["groups"][0]["rules"]
    expressions = [rule["expr"] for rule in rules]
    boards = [
        json.loads(text)
        for one in of_kind(everything, "ConfigMap")
        for name, text in one["data"].items()
        if name.endswith(".json")
    ]
    assert len(boards) == 2 and len(rules) >= 8
    for board in boards:
        targets = [target for panel in board["panels"] for target in panel["targets"]]
        expressions += [target["expr"] for target in targets]
    asked = {name for text in expressions for name in re.findall(r"quarterdeck_\w+", text)}
    assert asked <= known_metrics()
    assert len(asked) > 15


def test_monitors_find_the_ports(everything: list[Object]) -> None:
    for monitor in of_kind(everything, "ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        (service,) = [
            one
            for one in of_kind(everything, "Service")
            if wanted <= one["metadata"]["labels"].items()
        ]
        ports = {port["name"] for port in service["spec"]["ports"]}
        assert {end["port"] for end in monitor["spec"]["endpoints"]} <= ports
    (monitor,) = of_kind(everything, "PodMonitor")
    (pod,) = [one for one in pods(everything) if one.component == "controller"]
    ports = {port["name"] for port in pod.spec["containers"][0]["ports"]}
    assert {end["port"] for end in monitor["spec"]["podMetricsEndpoints"]} <= ports


def test_one_origin_behind_an_ingress(everything: list[Object]) -> None:
    (ingress,) = of_kind(everything, "Ingress")
    paths = {
        path["path"]: path["backend"]["service"]["name"]
        for path in ingress["spec"]["rules"][0]["http"]["paths"]
    }
    assert paths == {"/v1": "qd-quarterdeck-gateway", "/": "qd-quarterdeck-api"}
