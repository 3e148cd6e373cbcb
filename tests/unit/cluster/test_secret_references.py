"""Where a pod can name a Secret."""

from __future__ import annotations

from typing import Any

import pytest

from quarterdeck.cluster.secret_references import secret_references


def pod(container: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "ray", **(container or {})}], **spec}}


def variable(**reference: Any) -> dict[str, Any]:
    return {"env": [{"name": "X", "valueFrom": {"secretKeyRef": reference}}]}


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        (pod(variable(name="s", key="k")), {"s": {"k"}}),
        (pod(variable(name="s", key="k", optional=True)), {}),
        (pod({"env": [{"name": "secret", "value": "x"}]}), {}),
        (pod({"envFrom": [{"secretRef": {"name": "s"}}, {"configMapRef": {"name": "c"}}]}),
         {"s": set()}),
        (pod({"envFrom": [{"secretRef": {"name": "s", "optional": True}}]}), {}),
        (pod(volumes=[{"name": "v", "secret": {"secretName": "s"}}]), {"s": set()}),
        (pod(volumes=[{"name": "v", "secret": {
            "secretName": "s", "items": [{"key": "a", "path": "p"}, {"key": "b", "path": "q"}]}}]),
         {"s": {"a", "b"}}),
        (pod(volumes=[{"name": "v", "projected": {"sources": [
            {"secret": {"name": "s", "items": [{"key": "a", "path": "p"}]}},
            {"secret": {"name": "t", "optional": True}},
            {"configMap": {"name": "c"}}]}}]), {"s": {"a"}}),
        (pod(imagePullSecrets=[{"name": "registry"}]), {"registry": set()}),
        (pod(initContainers=[variable(name="s", key="k")]), {"s": {"k"}}),
        (pod(), {}),
    ],
)  # fmt: skip
def test_each_place_is_found(named: dict[str, Any], expected: dict[str, set[str]]) -> None:
    cluster = {"spec": {"headGroupSpec": {"template": named}}}
    assert secret_references(cluster) == expected


def test_entries_of_one_secret_are_put_together() -> None:
    head, worker = pod(variable(name="s", key="a")), pod(variable(name="s", key="b"))
    workers = [{"groupName": "w", "template": worker}]
    cluster = {"spec": {"headGroupSpec": {"template": head}, "workerGroupSpecs": workers}}
    assert secret_references(cluster) == {"s": {"a", "b"}}
