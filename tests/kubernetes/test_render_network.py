"""Who may reach whom, and who is watched, as the chart renders it."""

from __future__ import annotations

import json
import re

from quarterdeck.api.monitoring import Monitoring
from quarterdeck.controller.health import Health
from quarterdeck.gateway.metrics import GatewayMetrics
from tests.kubernetes.chart import (
    Chart,
    Object,
    component_of,
    named,
    of_kind,
    pods,
)


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
    assert table["postgresql"] == (
        {f"{c}:5432" for c in ("api", "controller", "migration", "maintenance")},
        set(),
    )
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
