"""From Kubernetes' objects to typed reasons: why pods do not come, which nodes go. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from quarterdeck.cluster.provider import NodeSeen, PodSeen, Trouble

Object = Mapping[str, Any]

_STARTING = frozenset({"ContainerCreating", "PodInitializing"})
_POD_NAME = re.compile(r'pods "[^"]*" is ')
_LONGEST = 400
_OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"
_LEAVING_TAINTS: Mapping[str, str] = {
    "ToBeDeletedByClusterAutoscaler": "the cluster autoscaler removes it",
    "karpenter.sh/disrupted": "Karpenter removes it",
    "karpenter.sh/disruption": "Karpenter removes it",
    "cloud.google.com/impending-node-termination": "Google Cloud takes it back",
    "aws-node-termination-handler/spot-itn": "AWS takes the spot machine back",
    "aws-node-termination-handler/rebalance-recommendation": "AWS may take the spot machine back",
    "aws-node-termination-handler/asg-lifecycle-termination": "AWS terminates it",
    "aws-node-termination-handler/scheduled-maintenance": "AWS has maintenance planned for it",
}
_LEAVING_CONDITIONS: Mapping[str, str] = {
    "PreemptScheduled": "Azure takes the spot machine back",
    "TerminateScheduled": "Azure terminates it",
    "RedeployScheduled": "Azure moves it",
}


def see_pod(pod: Object) -> PodSeen:
    """A pod's place and trouble."""
    meta, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
    labels = meta.get("labels") or {}
    is_head = labels.get("ray.io/node-type") == "head"
    started = status.get("startTime")
    return PodSeen(
        name=meta["name"],
        uid=meta["uid"],
        group="" if is_head else labels.get("ray.io/group", ""),
        node=spec.get("nodeName") or "",
        address=status.get("podIP") or "",
        phase=status.get("phase") or "Pending",
        deleting="deletionTimestamp" in meta,
        started_at=datetime.fromisoformat(started) if started else None,
        trouble=_trouble(meta["name"], status),
        disrupted=_disrupted(status),
    )


def _trouble(name: str, status: Object) -> Trouble | None:
    found = _unscheduled(status) or _container(status)
    if found is None and status.get("phase") == "Failed":
        reason = str(status.get("reason") or "PodFailed")
        found = (reason, str(status.get("message") or "the pod has ended"))
    if found is None:
        return None
    return Trouble(found[0], found[1].strip()[:_LONGEST], (name,))


def _unscheduled(status: Object) -> tuple[str, str] | None:
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            # Behind the first sentence stands what preemption tried.
            message = str(condition.get("message") or "").partition(". ")[0].rstrip(".")
            return str(condition.get("reason") or "Unschedulable"), message
    return None


def _container(status: Object) -> tuple[str, str] | None:
    """Of a container that cannot start: images, settings, crash loops."""
    for one in [*(status.get("initContainerStatuses") or ()),
                *(status.get("containerStatuses") or ())]:  # fmt: skip
        waiting = (one.get("state") or {}).get("waiting") or {}
        reason = waiting.get("reason")
        if not reason or reason in _STARTING:
            continue
        message = str(waiting.get("message") or "")
        ended = (one.get("lastState") or {}).get("terminated")
        if reason == "CrashLoopBackOff" and ended:
            why = ended.get("reason") or "Error"
            message = (
                f"container {one['name']} ended {one.get('restartCount', 0)} times, last with exit "
                f"code {ended.get('exitCode')} ({why})"
            )
            if last := str(ended.get("message") or "").strip():
                message += f": {last.splitlines()[-1]}"
        return str(reason), f"{message}" if message else f"container {one['name']}"
    return None


def _disrupted(status: Object) -> str:
    for condition in status.get("conditions") or ():
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            why = condition.get("message") or condition.get("reason") or ""
            return f"DisruptionTarget: {why}".strip()[:_LONGEST]
    return ""


def see_node(node: Object) -> NodeSeen:
    """A node's readiness, and whether it goes."""
    name, labels = node["metadata"]["name"], node["metadata"].get("labels") or {}
    spec, status = node.get("spec") or {}, node.get("status") or {}
    taints = {taint["key"]: taint for taint in spec.get("taints") or ()}
    dead = f"node {name} is tainted out-of-service" if _OUT_OF_SERVICE in taints else ""
    leaving = next((words for key, words in _LEAVING_TAINTS.items() if key in taints), "")
    not_ready = ""
    for condition in status.get("conditions") or ():
        kind, state = condition.get("type"), condition.get("status")
        if kind == "Ready" and state != "True":
            why = condition.get("message") or condition.get("reason") or "no word from its kubelet"
            not_ready = f"node {name} is not ready: {why}"[:_LONGEST]
        if kind in _LEAVING_CONDITIONS and state == "True":
            leaving = leaving or _LEAVING_CONDITIONS[kind]
    if leaving:
        leaving = f"node {name}: {leaving}"
    elif spec.get("unschedulable"):
        leaving = f"node {name} is cordoned in Kubernetes"
    return NodeSeen(name, dead, leaving, not_ready, dict(labels))


def see_failures(cluster: Object, events: Sequence[Object] = ()) -> list[Trouble]:
    """Why KubeRay could not create pods: its condition ReplicaFailure, else (older operators) its
    newest warning of the kind."""
    conditions = (cluster.get("status") or {}).get("conditions") or ()
    said = [
        str(condition.get("message") or condition.get("reason") or "")
        for condition in conditions
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True"
    ]
    if not said:
        warnings = [
            event
            for event in events
            if event.get("type") == "Warning" and str(event.get("reason", "")).startswith("Failed")
        ]
        warnings.sort(key=lambda event: str(event.get("lastTimestamp") or ""))
        said = [str(event.get("message") or event["reason"]) for event in warnings[-1:]]
    return [_failure(text) for text in said]


def _failure(text: str) -> Trouble:
    # The name of the pod is another one at each try: without it the words stay the same.
    message = _POD_NAME.sub("a pod is ", text.strip().splitlines()[-1])[:_LONGEST]
    if "exceeded quota" in message:
        return Trouble("QuotaExceeded", message)
    if "forbidden" in message and "cannot create" in message:
        return Trouble("Forbidden", message)
    return Trouble("FailedCreate", message)


def together(troubles: Iterable[Trouble]) -> tuple[Trouble, ...]:
    """The same trouble of several pods as one."""
    pods: dict[tuple[str, str], list[str]] = {}
    for one in troubles:
        pods.setdefault((one.reason, one.message), []).extend(one.pods)
    return tuple(Trouble(reason, message, tuple(of)) for (reason, message), of in pods.items())
