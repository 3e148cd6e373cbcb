"""Pods as the chart renders them: confined, which secrets they see, how they are probed."""

from __future__ import annotations

from tests.kubernetes.chart import (
    Chart,
    Object,
    Pod,
    component_of,
    named,
    of_kind,
    pods,
)


def every_pod(*renders: list[Object]) -> list[Pod]:
    return [pod for objects in renders for pod in pods(objects)]


def test_every_pod_is_confined(
    everything: list[Object], trial: list[Object], resting: list[Object]
) -> None:
    seen = set()
    for pod in every_pod(everything, trial, resting):
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
        "api", "controller", "gateway", "maintenance", "migration", "workers", "pools",
        "postgresql", "tests",
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


def test_pods_of_a_lost_node_go_soon(everything: list[Object], trial: list[Object]) -> None:
    """Ray's heads and machines: whatever ran with them waits for others."""
    for pod in every_pod(everything, trial):
        if pod.component in ("workers", "pools"):
            waits = {
                one["key"]: one["tolerationSeconds"]
                for one in pod.spec["tolerations"]
                if one.get("effect") == "NoExecute"
            }
            lost = "node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready"
            assert waits == dict.fromkeys(lost, 30), pod.owner
