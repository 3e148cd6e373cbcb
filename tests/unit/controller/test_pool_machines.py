"""Whose pod is which node."""

from __future__ import annotations

from typing import Any

import pytest

from quarterdeck.cluster.provider import NodeSeen, PodSeen, PoolSeen
from quarterdeck.controller.pool_machines import match, places
from quarterdeck.store.tables import NodeRow

POD = PodSeen("worker-1", "uid", "h100", node="machine-1", address="10.0.0.1", phase="Running")


def node(id: str, **fields: Any) -> NodeRow:
    usual = {"host": "elsewhere", "address": "", "phase": "alive", "labels": {}}
    return NodeRow(id=id, **{**usual, **fields})


@pytest.mark.parametrize(
    ("nodes", "found"),
    [
        ([node("a", labels={"pod": "worker-1"})], "a"),
        ([node("a", labels={"pod": "worker-2"}, host="worker-1")], ""),
        ([node("a", host="worker-1")], "a"),
        ([node("a", host="machine-1", address="10.0.0.1")], "a"),
        ([node("a", host="machine-1", address="10.0.0.2")], ""),
        ([node("a", host="machine-2", address="10.0.0.1")], ""),
        ([node("a", host="worker-1"), node("b", labels={"pod": "worker-1"})], "b"),
        ([node("a", labels={"pod": "worker-1"}), node("b", host="worker-1")], "b"),
        ([node("a", host="worker-1"), node("b", host="worker-1", phase="dead")], "a"),
        ([node("a", host="worker-1", phase="dead"), node("b", host="worker-1", phase="dead")], "b"),
    ],
)
def test_a_pods_node_is_the_newest_living_one_that_is_its(nodes: list[NodeRow], found: str) -> None:
    seen = PoolSeen("1", {"h100": 1}, pods=(PodSeen("head", "uid-0", ""), POD))
    (matched,) = match(seen, nodes)
    assert (matched.pod, matched.node_id) == (POD, found)


def test_a_pod_without_an_address_is_not_found_by_it() -> None:
    pod = PodSeen("worker-1", "uid", "h100", node="machine-1")
    (matched,) = match(PoolSeen("1", {"h100": 1}, pods=(pod,)), [node("a", host="machine-1")])
    assert matched.node is None


@pytest.mark.parametrize(
    ("labels", "before", "found"),
    [
        ({"zone": "a", "rack": "r1"}, "", {"n": "a/r1"}),
        ({"zone": "a", "rack": "r1"}, "a/r1", {}),
        ({"zone": "a"}, "", {"n": "a"}),
        ({"rack": "r1"}, "", {}),
        ({}, "a/r1", {"n": ""}),
        (None, "a/r1", {}),
    ],
)
def test_a_machine_is_where_the_labels_of_its_node_say(
    labels: dict[str, str] | None, before: str, found: dict[str, str]
) -> None:
    known = {} if labels is None else {"machine-1": NodeSeen("machine-1", labels=labels)}
    seen = PoolSeen("1", {"h100": 1}, pods=(POD,), nodes=known)
    matched = match(seen, [node("n", host="worker-1", topology=before)])
    assert places(seen, matched, ["zone", "rack"]) == found
