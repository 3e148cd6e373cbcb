"""A pool's machines by KubeRay: the RayCluster object is read and patched, never fought over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from quarterdeck.cluster.kubernetes_client import Kubernetes
from quarterdeck.cluster.nodes import Nodes
from quarterdeck.cluster.observation import see_failures, see_pod, together
from quarterdeck.cluster.provider import NodeSeen, PodSeen, PoolSeen, ProviderError, Trouble
from quarterdeck.cluster.raycluster import (
    POOL_LABEL,
    TEMPLATE_DIGEST,
    digest,
    is_ours,
    manifest,
    removing,
    replicas,
    resize_patch,
)
from quarterdeck.specs.pools import Pool


class KubeRay:
    """The provider of one pool. Every call raises ProviderError."""

    def __init__(self, kubernetes: Kubernetes, pool: Pool, nodes: Nodes | None = None) -> None:
        """Pools of one API server may share its `nodes`."""
        self._api = kubernetes
        self._pool = pool
        self._known = nodes or Nodes(kubernetes)
        space = f"namespaces/{pool.namespace}"
        self._clusters = f"/apis/ray.io/v1/{space}/rayclusters"
        self._core = f"/api/v1/{space}"

    def look(self) -> PoolSeen | None:
        """The pool as it is; None: there is no such RayCluster."""
        cluster = self._read()
        return None if cluster is None else self._seen(cluster)

    def create(self) -> None:
        """Make the RayCluster from the template, each group at its least."""
        try:
            self._api.create(self._clusters, manifest(self._pool))
        except ProviderError as error:
            if error.reason != "NotFound":
                raise
            message = (
                f"{self._name} cannot be created: {error}; install the KubeRay operator with its "
                f"CRDs, and create namespace {self._pool.namespace}"
            )
            raise ProviderError("NotFound", message) from error

    def resize(self, seen: PoolSeen, wanted: Mapping[str, int], remove: Sequence[str]) -> bool:
        """One patch of all that changes; whether anything did. Raises ProviderError, as Conflict
        when somebody else wrote the object's spec since it was `seen`.

        KubeRay writes its status all the time while pods come: what is decided must outlast that,
        so the look's generation counts, and the patch is tried again under a newer resourceVersion.
        """
        group_of = {pod.name: pod.group for pod in seen.pods}
        going: dict[str, list[str]] = {}
        for name in {*remove, *seen.removing}:
            if name in group_of:
                going.setdefault(group_of[name], []).append(name)
        for last in (False, False, True):
            cluster = self._read()
            if cluster is None or _version(cluster) != seen.version:
                raise ProviderError("Conflict", f"{self._name} changed since it was read")
            guard = cluster["metadata"]["resourceVersion"]
            patch = resize_patch(cluster, self._pool, guard, wanted, going)
            if not patch:
                return False
            try:
                self._api.patch(f"{self._clusters}/{self._pool.object_name}", patch)
            except ProviderError as error:
                if last or error.reason != "Conflict":
                    raise
            else:
                break
        return True

    def beside(self, pool: Pool) -> KubeRay:
        """The provider of another pool of the same API server."""
        return KubeRay(self._api, pool)

    def delete(self) -> bool:
        """Delete the RayCluster after its pods; whether it is gone."""
        cluster = self._read()
        if cluster is None:
            return True
        if "deletionTimestamp" not in cluster["metadata"]:
            uid = cluster["metadata"]["uid"]
            options = {"propagationPolicy": "Foreground", "preconditions": {"uid": uid}}
            self._api.delete(f"{self._clusters}/{self._pool.object_name}", options)
        return False

    def bury(self, pod: PodSeen) -> None:
        """Delete the pod of a dead machine at once: nothing on it will ever say that it ended, and
        KubeRay brings no other while it is there."""
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod.uid}}
        try:
            self._api.delete(f"{self._core}/pods/{pod.name}", options)
        except ProviderError as error:
            if error.reason not in ("NotFound", "Conflict"):  # gone, or another of its name
                raise

    @property
    def _name(self) -> str:
        return f"RayCluster {self._pool.namespace}/{self._pool.object_name}"

    def _read(self) -> dict[str, Any] | None:
        try:
            cluster = self._api.get(f"{self._clusters}/{self._pool.object_name}")
        except ProviderError as error:
            if error.reason == "NotFound":
                return None
            raise
        if not is_ours(cluster, self._pool):
            raise ProviderError(
                "NotOurs",
                f"{self._name} was not made for this pool, so it is left alone: give the pool "
                f"another `object`, or label it {POOL_LABEL}={self._pool.name}",
            )
        return cluster

    def _seen(self, cluster: Mapping[str, Any]) -> PoolSeen:
        uid = cluster["metadata"]["uid"]
        selector = f"ray.io/cluster={self._pool.object_name}"
        found = [
            (str(pod["metadata"]["creationTimestamp"]), see_pod(pod))
            for pod in self._api.each(f"{self._core}/pods", labelSelector=selector)
            if any(owner["uid"] == uid for owner in pod["metadata"].get("ownerReferences") or ())
        ]
        pods = tuple(pod for _, pod in sorted(found, key=lambda pair: pair[0]))
        nodes, troubles = self._nodes({pod.node for pod in pods if pod.node})
        troubles += see_failures(cluster, self._warnings(cluster, pods))
        annotations = cluster["metadata"].get("annotations") or {}
        deleted = cluster["metadata"].get("deletionTimestamp")
        if annotations.get(TEMPLATE_DIGEST) != digest(self._pool):
            message = (
                f"{self._name} was made from another template: delete it when nothing runs there, "
                "and it is made anew"
            )
            troubles.append(Trouble("TemplateChanged", message))
        return PoolSeen(
            version=_version(cluster),
            replicas=replicas(cluster),
            removing=removing(cluster),
            pods=pods,
            nodes=nodes,
            troubles=together(troubles),
            ending=datetime.fromisoformat(deleted) if deleted else None,
        )

    def _nodes(self, names: set[str]) -> tuple[dict[str, NodeSeen], list[Trouble]]:
        """What is known of the nodes of the pods."""
        try:
            return self._known.seen(names), []
        except ProviderError as error:
            if error.reason != "Forbidden":
                raise
            message = f"{error}: without it nobody notices that a machine is gone or goes"
            return {}, [Trouble("NodesUnreadable", message)]

    def _warnings(
        self, cluster: Mapping[str, Any], pods: Sequence[PodSeen]
    ) -> list[dict[str, Any]]:
        """The operator's events, where it keeps no conditions and pods are missing."""
        status = cluster.get("status") or {}
        if status.get("conditions") or len(pods) > sum(replicas(cluster).values()):
            return []
        selector = f"involvedObject.uid={cluster['metadata']['uid']},type=Warning"
        try:
            return list(self._api.each(f"{self._core}/events", fieldSelector=selector))
        except ProviderError as error:
            if error.reason != "Forbidden":
                raise
            return []


def _version(cluster: Mapping[str, Any]) -> str:
    """Of what is wanted: a status or an annotation changes nothing of it, another object does."""
    return f"{cluster['metadata']['uid']}/{cluster['metadata']['generation']}"
