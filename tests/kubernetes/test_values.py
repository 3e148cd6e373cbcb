"""Wrong values are refused before anything is made, with a sentence that says what to do."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.kubernetes.chart import CHART, LEAST, Chart, read_all

POOL = {"name": "gpu", "groups": [{"name": "a", "slots": 1, "maxReplicas": 1}]}


def pool(**changes: object) -> list[dict[str, Any]]:
    return [{"name": "gpu", "groups": [{"name": "a", "slots": 1, "maxReplicas": 1, **changes}]}]


@pytest.mark.parametrize(
    ("path", "value", "at", "says"),
    [
        ("replcias", 2, "", "'replcias' not allowed"),
        ("api.replcias", 2, "/api", "'replcias' not allowed"),
        ("api.replicas", "two", "/api/replicas", "got string, want integer"),
        ("api.replicas", -1, "/api/replicas", "got -1, want 0"),
        ("api.service.type", "Ingress", "/api/service/type", "'ClusterIP', 'NodePort'"),
        ("api.service.port", 70000, "/api/service/port", "want 65,535"),
        ("api.resources.request", {}, "/api/resources", "'request' not allowed"),
        ("api.publicUrl", "example.com", "/api/publicUrl", "does not match pattern"),
        ("api.probes.ready", {}, "/api/probes", "'ready' not allowed"),
        ("gateway.autoscaling.targetCPU", 1, "/gateway/autoscaling", "'targetCPU' not allowed"),
        ("gateway.nodeSelector", {"gpu": True}, "/gateway/nodeSelector/gpu", "want string"),
        ("controller.autoscaling", {}, "/controller", "'autoscaling' not allowed"),
        ("controller.extraEnv", {"A": "b"}, "/controller/extraEnv", "want array"),
        ("image.registy", "x", "/image", "'registy' not allowed"),
        ("image.pullPolicy", "Sometimes", "/image/pullPolicy", "'IfNotPresent'"),
        ("image.control.digest", "sha256:abc", "/image/control/digest", "does not match pattern"),
        ("keys.existingSecret", "My Keys", "/keys/existingSecret", "does not match pattern"),
        ("keys.adminkey", "x", "/keys", "'adminkey' not allowed"),
        ("database.url", "postgresql://…", "/database", "'url' not allowed"),
        ("artifacts.uri", "bucket/here", "/artifacts/uri", "does not match pattern"),
        ("artifacts.persistence.size", "20 GB", "/artifacts/persistence/size", "pattern"),
        ("retention.logs", "a month", "/retention/logs", "does not match pattern"),
        ("workers.slots", 0, "/workers/slots", "got 0, want 1"),
        ("workers.gpus", 8, "/workers", "'gpus' not allowed"),
        ("pools", {}, "/pools", "want array"),
        ("pools", [{"name": "gpu"}], "/pools/0", "missing property 'groups'"),
        ("pools", [{**POOL, "groups": []}], "/pools/0/groups", "minItems"),
        ("pools", [{**POOL, "name": "GPU"}], "/pools/0/name", "does not match pattern"),
        ("pools", pool(min_replicas=1), "/pools/0/groups/0", "'min_replicas' not allowed"),
        ("pools", pool(slots="8"), "/pools/0/groups/0/slots", "want integer"),
        ("pools", pool(template={}), "/pools/0/groups/0", "'template' not allowed"),
        ("poolDefaults.head.accelerator", "H100", "/poolDefaults/head", "not allowed"),
        ("ingress.hosts", [], "/ingress", "'hosts' not allowed"),
        ("networkPolicies.egress.internet", [], "/networkPolicies/egress", "not allowed"),
        ("monitoring.interval", "often", "/monitoring/interval", "does not match pattern"),
        ("migration.replicas", 1, "/migration", "'replicas' not allowed"),
    ],
)
def test_the_schema_refuses(chart: Chart, path: str, value: object, at: str, says: str) -> None:
    said = chart.refusal({**LEAST, path: value})
    assert f"at '{at}'" in said and says in said, said


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"image.registry": ""}, "image.registry is not set"),
        ({"image.registry": ""}, "make images\n  docker push REGISTRY/quarterdeck/control:"),
        ({"keys.existingSecret": ""}, "kubectl create secret generic qd-keys -n ml"),
        ({"database.existingSecret": ""}, "holds postgresql+psycopg://USER:PASSWORD@HOST/DATABASE"),
        ({"postgresql.enabled": True}, "database.existingSecret and postgresql.enabled are both"),
        (
            {"database.existingSecret": "", "postgresql.enabled": True},
            "postgresql.existingSecret is not set",
        ),
        ({"artifacts.uri": ""}, "artifacts.uri is not set"),
        ({"artifacts.uri": "file:///data"}, "a folder of a pod, which no other pod can read"),
        ({"artifacts.persistence.enabled": True}, "artifacts lie in one place"),
        (
            {"database.existingSecret": "", "postgresql.enabled": True, "migration.hook": True,
             "postgresql.existingSecret": "x"},
            "a hook runs before the release's own database exists",
        ),
        (
            {"api.autoscaling": {"enabled": True, "minReplicas": 9}},
            "api.autoscaling.minReplicas is 9, above maxReplicas, which is 6",
        ),
        ({"httpRoute.enabled": True}, "httpRoute.parentRefs is empty: name the Gateway"),
        ({"pools": [POOL]}, "Install the KubeRay operator"),
        ({"pools": [POOL]}, "set workers.enabled=true"),
        (
            {"pools": [POOL, POOL], "kuberay.skipCheck": True},
            'the cluster name "gpu" is used twice',
        ),
        (
            {"pools": [POOL], "workers": {"enabled": True, "cluster": "gpu"},
             "kuberay.skipCheck": True},
            'the cluster name "gpu" is used twice',
        ),
        (
            {"pools": pool(minReplicas=2), "kuberay.skipCheck": True},
            'group "a" of pool "gpu" has minReplicas 2 above maxReplicas 1',
        ),
        (
            {"pools": [{**POOL, "groups": POOL["groups"] * 2}], "kuberay.skipCheck": True},  # type: ignore[operator]
            'pool "gpu" has two groups "a"',
        ),
        (
            {"pools": [{**POOL, "name": "a" * 30}], "fullnameOverride": "b" * 30,
             "kuberay.skipCheck": True},
            "is longer than the 45 characters",
        ),
    ],
)  # fmt: skip
def test_the_chart_refuses_what_does_not_go_together(
    chart: Chart, changes: dict[str, object], says: str
) -> None:
    assert says in chart.refusal({**LEAST, **changes})


def test_pools_are_rendered_where_kuberay_is(chart: Chart) -> None:
    done = chart.template({**LEAST, "pools": [POOL]}, "--api-versions", "ray.io/v1/RayCluster")
    assert done.returncode == 0, done.stderr


def paths(value: object, schema: dict[str, Any], at: str = "") -> tuple[set[str], set[str]]:
    """Paths that only the values have, and that only the schema has."""
    named = json.loads((CHART / "values.schema.json").read_text())["$defs"]
    while "$ref" in schema:
        schema = named[schema["$ref"].removeprefix("#/$defs/")]
    if "properties" not in schema or not isinstance(value, dict):
        return set(), set()
    more = {f"{at}{name}" for name in value.keys() - schema["properties"].keys()}
    less = {f"{at}{name}" for name in schema["properties"].keys() - value.keys()}
    for name in value.keys() & schema["properties"].keys():
        inner = paths(value[name], schema["properties"][name], f"{at}{name}.")
        more, less = more | inner[0], less | inner[1]
    return more, less


def test_the_schema_has_every_value_and_no_other() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    (values,) = read_all((CHART / "values.yaml").read_text())
    more, less = paths(values, schema)
    assert more == set()
    # What Helm adds by itself, and what has no default.
    free = ("global", ".resources.", ".probes.", "poolDefaults.head.")
    assert {path for path in less if not any(part in path for part in free)} == set()
