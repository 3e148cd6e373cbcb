"""The chart in maintenance: one pod has the stores to itself, so that a backup can be restored."""

from __future__ import annotations

from tests.kubernetes.chart import Chart, Object, named, of_kind, pods
from tests.kubernetes.renders import EVERYTHING
from tests.kubernetes.test_render_network import network


def test_a_pod_without_keys_stands_in_the_place_of_api_and_controller(
    everything: list[Object], resting: list[Object]
) -> None:
    usual, now = ({pod.component: pod.spec for pod in pods(one)} for one in (everything, resting))
    assert now.keys() == usual.keys() - {"api", "controller"} | {"maintenance"}
    for going_on in ("gateway", "workers", "pools", "migration"):
        assert now[going_on] == usual[going_on], "it would be rolled, or run again"
    api, pod = usual["api"], now["maintenance"]
    assert "initContainers" not in pod, "it must not wait for a schema that it is to bring"
    assert pod["serviceAccountName"] == api["serviceAccountName"], "clouds give rights by it"
    assert pod["volumes"] == [one for one in api["volumes"] if one["name"] != "keys"]
    variables = {one["name"] for one in api["containers"][0]["env"]}
    keys = {one for one in variables if one.endswith("_KEY_FILE")} | {"QUARTERDECK_URL"}
    assert {one["name"] for one in pod["containers"][0]["env"]} == variables - keys


def test_what_lets_the_api_reach_both_stores_lets_this_pod(chart: Chart) -> None:
    given = {
        "api.extraEnv": [{"name": "PGSSLROOTCERT", "value": "/ca/ca.crt"}],
        "api.extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
        "api.extraVolumeMounts": [{"name": "ca", "mountPath": "/ca"}],
        "api.podLabels": {"team": "a"},
        "commonLabels": {"team": "b"},
    }
    for component in ("api", "maintenance"):
        objects = chart.objects({**given, "maintenance.enabled": component == "maintenance"})
        part = named(objects, "Deployment", f"qd-quarterdeck-{component}")["spec"]["template"]
        (container,) = part["spec"]["containers"]
        assert {"name": "PGSSLROOTCERT", "value": "/ca/ca.crt"} in container["env"]
        assert {"name": "ca", "mountPath": "/ca"} in container["volumeMounts"]
        assert part["metadata"]["labels"]["team"] == "a"


def test_no_hook_migrates_before_the_restore(chart: Chart) -> None:
    hooked = {"migration.hook": True}
    assert of_kind(chart.objects(hooked), "Job")
    assert not of_kind(chart.objects({**hooked, "maintenance.enabled": True}), "Job")


def test_values_of_a_release_that_knew_no_maintenance(chart: Chart) -> None:
    """As `--reuse-values` gives them."""
    assert chart.objects({"maintenance": None}) == chart.objects()


def test_no_autoscaler_brings_the_api_back(resting: list[Object]) -> None:
    assert EVERYTHING["api.autoscaling.enabled"]
    scaled = {
        one["spec"]["scaleTargetRef"]["name"] for one in of_kind(resting, "HorizontalPodAutoscaler")
    }
    assert scaled == {"qd-quarterdeck-gateway"}


def test_it_reaches_the_stores_and_nothing_reaches_it(
    resting: list[Object], trial: list[Object]
) -> None:
    assert network(resting)["maintenance"] == (set(), {"*:5432", "*:443"})
    assert "maintenance:5432" in network(trial)["postgresql"][0]
