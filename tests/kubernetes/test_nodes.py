"""What is read of Kubernetes' nodes, and how often, against a real API server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from quarterdeck.cluster import kubernetes_client, nodes
from quarterdeck.cluster.kubernetes_client import Kubernetes
from quarterdeck.cluster.nodes import Nodes
from tests.kubernetes.kuberay_server import KubeRayServer, machine

NAMES = [f"many-{number:02}" for number in range(nodes.ONE_BY_ONE + 5)]


class Counted:
    """The API server, and what it was asked."""

    def __init__(self, api: Kubernetes) -> None:
        self._api = api
        self.asked: list[str] = []

    def _call(self, method: str, path: str, **options: Any) -> Any:
        page = "?" if options.get("query") else ""
        self.asked.append(path.removeprefix("/api/v1/") + page)
        return self._api._call(method, path, **options)

    get, each = Kubernetes.get, Kubernetes.each

    def taken(self) -> list[str]:
        """What it was asked since the last time."""
        asked, self.asked = self.asked, []
        return asked


@pytest.fixture
def counted(kuberay: KubeRayServer, api: Kubernetes) -> Iterator[Counted]:
    kuberay.apply([machine(name, "many") for name in NAMES])
    yield Counted(api)
    kuberay.kubectl("delete", "nodes", "-l", "pool=many", "--wait=false")


def test_many_nodes_are_listed_page_by_page_and_then_believed_for_a_while(
    kuberay: KubeRayServer, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes_client, "PAGE", 10)
    now = 100.0
    known = Nodes(counted, lambda: now)  # type: ignore[arg-type]
    every = set(NAMES)
    assert known.seen(every).keys() == every
    assert counted.taken() == ["nodes?"] * 3

    kuberay.kubectl("delete", "node", NAMES[0])
    kuberay.kubectl("cordon", NAMES[1])
    kuberay.apply([machine("many-new", "many")])
    now += nodes.LISTED_S - 1
    seen = known.seen({*every, "many-new"})
    assert (seen[NAMES[0]].dead, seen[NAMES[1]].leaving) == ("", "")
    assert not seen["many-new"].dead
    assert counted.taken() == ["nodes/many-new"]
    assert known.seen({*every, "many-new"}) == seen
    assert counted.taken() == []

    now += 1
    seen = known.seen(every)
    assert seen[NAMES[0]].dead == f"node {NAMES[0]} was deleted from Kubernetes"
    assert seen[NAMES[1]].leaving == f"node {NAMES[1]} is cordoned in Kubernetes"
    assert counted.taken() == ["nodes?"] * 3 + [f"nodes/{NAMES[0]}"]

    kuberay.apply([machine(NAMES[0], "many")])  # a machine of the same name is another one
    assert not known.seen(every)[NAMES[0]].dead
    assert counted.taken() == [f"nodes/{NAMES[0]}"]


def test_few_nodes_are_asked_for_each_time(counted: Counted) -> None:
    known = Nodes(counted)  # type: ignore[arg-type]
    for _ in range(2):
        assert not any(node.dead for node in known.seen(set(NAMES[:2])).values())
        assert counted.taken() == [f"nodes/{name}" for name in NAMES[:2]]
