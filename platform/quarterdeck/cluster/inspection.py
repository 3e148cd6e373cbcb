"""What Kubernetes lacks for pools, looked for with the rights that this process has. Changes
nothing, and keeps no value of a Secret."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from quarterdeck.cluster.kubernetes_client import Kubernetes
from quarterdeck.cluster.provider import ProviderError
from quarterdeck.cluster.secret_references import secret_references
from quarterdeck.specs.pools import Pool
from quarterdeck.specs.reports import DoctorCheck, DoctorFinding

RIGHTS = (
    ("ray.io", "rayclusters", ("get", "list", "create", "patch", "delete")),
    ("", "pods", ("list", "delete")),
    ("", "events", ("list",)),
)
"""(group, resource, verbs) that a controller needs in the namespace of each pool."""
NODE_RIGHTS = (("", "nodes", ("get", "list")),)
"""Over the whole of Kubernetes; pools work without, and notice less."""
_OPERATOR = (
    "https://docs.ray.io/en/latest/cluster/kubernetes/getting-started/"
    "kuberay-operator-installation.html"
)
_GO_STATIC = "or do without: leave out `pools`, and give machines by `workers.enabled` or an agent"
_Rights = Sequence[tuple[str, str, Sequence[str]]]


def inspect(api: Kubernetes, pools: Sequence[Pool]) -> list[DoctorCheck]:
    """One check for each kind of thing that pools need; the first alone when Kubernetes does not
    answer."""
    try:
        version = str(api.get("/version").get("gitVersion", ""))
    except ProviderError as error:
        return [_check("kubernetes", "Kubernetes answers", "", [("", str(error))])]
    return [
        _check("kubernetes", f"Kubernetes {version} answers", "", []),
        _kuberay(api),
        _namespaces(api, pools),
        _rights(api, pools),
        _node_rights(api),
        *_secrets(api, pools),
    ]


def _kuberay(api: Kubernetes) -> DoctorCheck:
    claim, found = "Kubernetes knows RayCluster (ray.io/v1)", []
    try:
        served = api.get("/apis/ray.io/v1").get("resources") or []
        if not any(one.get("name") == "rayclusters" for one in served):
            found = [("ray.io/v1", "has no rayclusters")]
    except ProviderError as error:
        if error.reason != "NotFound":
            return _check("kuberay", claim, "", [("ray.io/v1", str(error))])
        found = [("ray.io/v1", "this Kubernetes does not know it: KubeRay is not installed")]
    remedy = f"install the KubeRay operator, which brings it ({_OPERATOR}); {_GO_STATIC}"
    return _check("kuberay", claim, remedy, found)


def _namespaces(api: Kubernetes, pools: Sequence[Pool]) -> DoctorCheck:
    found = []
    for space in _spaces(pools):
        try:
            api.get(f"/api/v1/namespaces/{space}")
        except ProviderError as error:
            if error.reason == "NotFound":
                found.append((space, "there is no such namespace"))
            elif error.reason != "Forbidden":  # who may not ask learns it from what fails there
                found.append((space, str(error)))
    remedy = "kubectl create namespace NAME, or give the pool another `namespace`"
    return _check("pool-namespaces", "the pools' namespaces are there", remedy, found)


def _rights(api: Kubernetes, pools: Sequence[Pool]) -> DoctorCheck:
    found = [
        (space or "", message)
        for space in _spaces(pools)
        for message in _missing(api, RIGHTS, space)
    ]
    remedy = (
        "the chart gives its controller these rights when `pools` are set: helm upgrade it; "
        "without the chart bind a Role with them to the service account"
    )
    return _check("pool-rights", "this account may do what pools need", remedy, found)


def _node_rights(api: Kubernetes) -> DoctorCheck:
    found = [("nodes", message) for message in _missing(api, NODE_RIGHTS, None)]
    remedy = (
        "rbac.nodes: true in the chart's values; without it nobody notices that a machine is gone, "
        "and `quarterdeck nodes confirm-dead` says so by hand"
    )
    claim = "this account may look at Kubernetes' nodes"
    return _check("node-rights", claim, remedy, found, failing="note")


def _missing(api: Kubernetes, rights: _Rights, space: str | None) -> Iterator[str]:
    for group, resource, verbs in rights:
        for verb in verbs:
            asked = {"verb": verb, "group": group, "resource": resource}
            if space is not None:
                asked["namespace"] = space
            review = {
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SelfSubjectAccessReview",
                "spec": {"resourceAttributes": asked},
            }
            name = f"{resource}.{group}" if group else resource
            try:
                path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
                status = api.create(path, review).get("status") or {}
            except ProviderError as error:
                yield f"cannot ask whether it may {verb} {name}: {error}"
                return
            if not status.get("allowed"):
                yield f"it may not {verb} {name}" + (f" in namespace {space}" if space else "")


def _secrets(api: Kubernetes, pools: Sequence[Pool]) -> Iterator[DoctorCheck]:
    found: list[tuple[str, str]] = []
    unread: list[tuple[str, str]] = []
    for pool in pools:
        for name, keys in secret_references(pool.template).items():
            place = f"{pool.namespace}/{name}"
            try:
                secret = api.get(f"/api/v1/namespaces/{pool.namespace}/secrets/{name}")
            except ProviderError as error:
                if error.reason == "NotFound":
                    message = f"pool {pool.name} names this Secret, and it does not exist"
                    found.append((place, message))
                elif error.reason == "Forbidden":
                    unread.append((place, f"pool {pool.name} names it; it was not looked at"))
                else:
                    found.append((place, str(error)))
                continue
            there = {*(secret.get("data") or {})}
            found += [
                (place, f"it has no entry {key}, which pool {pool.name} names")
                for key in sorted(keys - there)
            ]
    remedy = "kubectl create secret generic NAME -n NAMESPACE --from-literal=ENTRY=…"
    claim = "Secrets that the pools' pods need are there"
    if unread:
        own = (
            "this account may not read Secrets, and a controller need not: run doctor elsewhere, "
            "with QUARTERDECK_POOLS and a kubeconfig of yours"
        )
        yield _check("secrets-unread", "every Secret was looked at", own, unread, failing="note")
    if not unread or found:
        yield _check("pool-secrets", claim, remedy, found)


def _spaces(pools: Sequence[Pool]) -> list[str]:
    return sorted({pool.namespace for pool in pools})


def _check(
    name: str,
    claim: str,
    remedy: str,
    found: Sequence[tuple[str, str]],
    failing: Literal["failed", "note"] = "failed",
) -> DoctorCheck:
    findings = [DoctorFinding(id=place or name, message=message) for place, message in found]
    return DoctorCheck(
        name=name,
        claim=claim,
        state=failing if findings else "ok",
        remedy=remedy if findings else "",
        found=findings[:100],
    )
