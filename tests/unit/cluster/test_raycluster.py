"""The object that is made and the patches that resize it."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from quarterdeck.cluster.raycluster import (
    digest,
    is_ours,
    manifest,
    removing,
    replicas,
    resize_patch,
)
from quarterdeck.specs.pools import Pool


def pool(**group: Any) -> Pool:
    worker = {"groupName": "h100", "template": {"spec": {"containers": []}}, "replicas": 3}
    return Pool.model_validate(
        {
            "name": "gpu",
            "groups": [{"name": "h100", "slots": 8, "max_replicas": 4, **group}],
            "template": {
                "apiVersion": "ray.io/v1",
                "kind": "RayCluster",
                "metadata": {"labels": {"team": "a"}},
                "spec": {"headGroupSpec": {"template": {}}, "workerGroupSpecs": [worker]},
            },
        }
    )


def there(made: dict[str, Any], **worker: Any) -> dict[str, Any]:
    found = copy.deepcopy(made)
    found["spec"]["workerGroupSpecs"][0] |= worker
    return found


def test_the_object_is_the_template_with_our_name_labels_and_sizes() -> None:
    made = manifest(pool(min_replicas=1))
    assert made["metadata"]["name"] == "quarterdeck-gpu"
    assert made["metadata"]["labels"] == {
        "team": "a", "quarterdeck.io/pool": "gpu", "app.kubernetes.io/managed-by": "quarterdeck",
    }  # fmt: skip
    worker = made["spec"]["workerGroupSpecs"][0]
    assert (worker["replicas"], worker["minReplicas"], worker["maxReplicas"]) == (1, 0, 4)
    assert is_ours(made, pool())
    assert replicas(made) == {"h100": 1}
    assert made["metadata"]["annotations"]["quarterdeck.io/template"] == digest(pool())


def test_nothing_to_change_is_no_patch() -> None:
    assert resize_patch(manifest(pool()), pool(), "7", {"h100": 0}, {}) == []


def test_growing_clears_the_names_of_earlier_times() -> None:
    old = there(manifest(pool()), replicas=1, scaleStrategy={"workersToDelete": ["gone"]})
    assert resize_patch(old, pool(), "7", {"h100": 2}, {}) == [
        {"op": "replace", "path": "/metadata/resourceVersion", "value": "7"},
        {"op": "add", "path": "/spec/workerGroupSpecs/0/replicas", "value": 2},
        {
            "op": "add",
            "path": "/spec/workerGroupSpecs/0/scaleStrategy",
            "value": {"workersToDelete": []},
        },
    ]


def test_names_alone_are_left_until_something_else_changes() -> None:
    old = there(manifest(pool()), replicas=1, scaleStrategy={"workersToDelete": ["gone"]})
    assert removing(old) == {"gone"}
    assert resize_patch(old, pool(), "7", {"h100": 1}, {}) == []


def test_shrinking_is_one_patch_of_the_number_and_the_name() -> None:
    old = there(manifest(pool()), replicas=2)
    patch = resize_patch(old, pool(), "7", {"h100": 1}, {"h100": ["p2"]})
    assert [one["path"].rpartition("/")[2] for one in patch] == [
        "resourceVersion", "replicas", "scaleStrategy",
    ]  # fmt: skip
    assert patch[-1]["value"] == {"workersToDelete": ["p2"]}


def test_new_bounds_of_the_file_are_written() -> None:
    patch = resize_patch(manifest(pool()), pool(max_replicas=9), "7", {"h100": 0}, {})
    assert patch[1:] == [{"op": "add", "path": "/spec/workerGroupSpecs/0/maxReplicas", "value": 9}]


def test_a_group_that_the_file_gained_is_added() -> None:
    without = manifest(pool())
    without["spec"]["workerGroupSpecs"] = []
    patch = resize_patch(without, pool(), "7", {"h100": 2}, {})
    assert patch[1]["path"] == "/spec/workerGroupSpecs/-"
    assert patch[1]["value"]["replicas"] == 2


@pytest.mark.parametrize("name", ["object", "name"])
def test_the_objects_name(name: str) -> None:
    given = pool().model_copy(update={name: "x"})
    assert given.object_name == ("x" if name == "object" else "quarterdeck-x")
