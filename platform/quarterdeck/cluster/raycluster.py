"""The RayCluster object of a pool: made from its template, resized by one patch. Pure."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from quarterdeck.specs.pools import Pool

POOL_LABEL = "quarterdeck.io/pool"
MANAGED_BY = ("app.kubernetes.io/managed-by", "quarterdeck")
TEMPLATE_DIGEST = "quarterdeck.io/template"


def manifest(pool: Pool) -> dict[str, Any]:
    """What is created: the template with our name, labels and sizes."""
    made = copy.deepcopy(pool.template)
    meta = made.setdefault("metadata", {})
    meta["name"], meta["namespace"] = pool.object_name, pool.namespace
    meta["labels"] = {
        **(meta.get("labels") or {}),
        POOL_LABEL: pool.name,
        MANAGED_BY[0]: MANAGED_BY[1],
    }
    meta["annotations"] = {**(meta.get("annotations") or {}), TEMPLATE_DIGEST: digest(pool)}
    made["spec"].pop("enableInTreeAutoscaling", None)
    made["spec"]["workerGroupSpecs"] = [
        _worker(pool, group.name, group.min_replicas) for group in pool.groups
    ]
    return made


def digest(pool: Pool) -> str:
    """Of the template: it tells that the object was made from another one."""
    text = json.dumps(pool.template, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def is_ours(cluster: Mapping[str, Any], pool: Pool) -> bool:
    """Whether the object was made for this pool."""
    return (cluster["metadata"].get("labels") or {}).get(POOL_LABEL) == pool.name


def replicas(cluster: Mapping[str, Any]) -> dict[str, int]:
    """Ordered machines by group; KubeRay takes a missing number for one."""
    return {worker["groupName"]: int(worker.get("replicas", 1)) for worker in _workers(cluster)}


def removing(cluster: Mapping[str, Any]) -> frozenset[str]:
    """Pods that were named to go."""
    return frozenset(
        name
        for worker in _workers(cluster)
        for name in (worker.get("scaleStrategy") or {}).get("workersToDelete") or ()
    )


def resize_patch(
    cluster: Mapping[str, Any],
    pool: Pool,
    version: str,
    wanted: Mapping[str, int],
    remove: Mapping[str, Sequence[str]],
) -> list[dict[str, Any]]:
    """The operations that give each group its size and name the pods to remove, by group; empty
    where nothing changes.

    The first one writes the version that was seen: the API server refuses it as a conflict when
    the object is a newer one. `remove` is all that is to go, also what was named before and is
    still there: a group that changes is left with no other name, for names of earlier times must
    not stand there when it grows.
    """
    index = {worker["groupName"]: i for i, worker in enumerate(_workers(cluster))}
    changes: list[dict[str, Any]] = []
    for group in pool.groups:
        count = wanted[group.name]
        if group.name not in index:
            worker = _worker(pool, group.name, count)
            changes.append({"op": "add", "path": "/spec/workerGroupSpecs/-", "value": worker})
            continue
        worker = _workers(cluster)[index[group.name]]
        path = f"/spec/workerGroupSpecs/{index[group.name]}"
        fields = {
            "replicas": count,
            "minReplicas": 0,
            "maxReplicas": max(group.max_replicas, count),
        }
        sizes = [
            {"op": "add", "path": f"{path}/{field}", "value": value}
            for field, value in fields.items()
            if worker.get(field) != value
        ]
        named = set((worker.get("scaleStrategy") or {}).get("workersToDelete") or ())
        going = set(remove.get(group.name, ()))
        if going - named or (sizes and going != named):
            strategy = {"workersToDelete": sorted(going)}
            sizes.append({"op": "add", "path": f"{path}/scaleStrategy", "value": strategy})
        changes += sizes
    if not changes:
        return []
    return [{"op": "replace", "path": "/metadata/resourceVersion", "value": version}, *changes]


def _worker(pool: Pool, group_name: str, count: int) -> dict[str, Any]:
    group = next(group for group in pool.groups if group.name == group_name)
    worker = next(
        copy.deepcopy(worker)
        for worker in pool.template["spec"]["workerGroupSpecs"]
        if worker["groupName"] == group_name
    )
    worker.pop("scaleStrategy", None)
    # KubeRay holds `replicas` inside its own bounds; ours are the only ones that decide.
    return {
        "rayStartParams": {},
        **worker,
        "replicas": count,
        "minReplicas": 0,
        "maxReplicas": max(group.max_replicas, count),
    }


def _workers(cluster: Mapping[str, Any]) -> list[dict[str, Any]]:
    workers: list[dict[str, Any]] = (cluster.get("spec") or {}).get("workerGroupSpecs") or []
    return workers
