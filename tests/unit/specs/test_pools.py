"""The file of pools: what is taken, and what is said of mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from quarterdeck.specs.loading import LoadError
from quarterdeck.specs.pools import parse_pools, read_pools

GOOD = """\
pools:
  - name: gpu
    namespace: quarterdeck
    groups:
      - {name: h100, accelerator: H100, slots: 8, max_replicas: 4, idle_after: 10m, memory: 64GiB}
    template:
      apiVersion: ray.io/v1
      kind: RayCluster
      spec:
        headGroupSpec: {template: {spec: {containers: []}}}
        workerGroupSpecs:
          - {groupName: h100, template: {spec: {containers: []}}}
"""


def test_a_good_file() -> None:
    (pool,) = parse_pools(GOOD, "pools.yaml")
    group = pool.groups[0]
    assert (pool.object_name, pool.namespace) == ("quarterdeck-gpu", "quarterdeck")
    assert (group.idle_after, group.memory, group.min_replicas) == (600.0, 64 << 30, 0)


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("slots: 8, ", "", 5, "pools[0].groups[0].slots: this field is required"),
        ("max_replicas", "max_replica", 5, "did you mean 'max_replicas'?"),
        ("max_replicas: 4", "max_replicas: 4, min_replicas: 5", 5, "raise max_replicas or lower"),
        ("idle_after: 10m", "idle_after: soon", 5, "write 800ms, 30s, 5m"),
        ("kind: RayCluster", "kind: RayJob", 2, "is not a RayCluster: write apiVersion"),
        ("groupName: h100", "groupName: a100", 2, "has groupName a100, the pool has groups h100"),
        (
            "      spec:\n",
            "      spec:\n        enableInTreeAutoscaling: true\n",
            2,
            "leave it out",
        ),
        ("groupName: h100", "groupName: h100, numOfHosts: 4", 2, "one replica is one machine"),
        ("name: gpu", "name: GPU", 2, "pools[0].name"),
        ("name: gpu", "name: gpu\n    object: " + "x" * 50, 2, "longer than 45 characters"),
        ("pools:", "pool:", 1, "did you mean 'pools'?"),
        ("slots: 8", "slots: 8, slots: 9", 5, "slots"),
    ],
)
def test_mistakes(old: str, new: str, line: int, words: str) -> None:
    with pytest.raises(LoadError) as caught:
        parse_pools(GOOD.replace(old, new, 1), "pools.yaml")
    assert words in str(caught.value)
    assert caught.value.problems[0].line in (line, line + 1)


def test_two_of_a_name() -> None:
    twice = GOOD + GOOD.removeprefix("pools:\n")
    with pytest.raises(LoadError, match="pool 'gpu' is there twice"):
        parse_pools(twice, "pools.yaml")


def test_two_documents_none_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="second document"):
        parse_pools(f"{GOOD}---\n{GOOD}", "pools.yaml")
    with pytest.raises(LoadError, match="write a list of pools"):
        parse_pools("", "pools.yaml")
    with pytest.raises(LoadError, match="cannot be read: No such file"):
        read_pools(tmp_path / "none.yaml")
