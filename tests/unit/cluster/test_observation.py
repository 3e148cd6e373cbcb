"""What Kubernetes' objects say, from objects as the API server gives them."""

from __future__ import annotations

from typing import Any

import pytest

from quarterdeck.cluster.observation import see_failures, see_node, see_pod, together
from quarterdeck.cluster.provider import Trouble


def pod(name: str = "p1", head: bool = False, **status: Any) -> dict[str, Any]:
    labels = {"ray.io/cluster": "c", "ray.io/group": "h100", "ray.io/node-type": "worker"}
    if head:
        labels |= {"ray.io/group": "headgroup", "ray.io/node-type": "head"}
    return {"metadata": {"name": name, "uid": "u1", "labels": labels}, "spec": {}, "status": status}


def waiting(reason: str, message: str = "", **more: Any) -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": message}}
    return {"containerStatuses": [{"name": "agent", "restartCount": 0, "state": state, **more}]}


def test_unschedulable_without_what_preemption_tried() -> None:
    message = (
        "0/4 nodes are available: 4 Insufficient nvidia.com/gpu. no new claims to deallocate, "
        "preemption: 0/4 nodes are available: 4 No preemption victims found for incoming pod."
    )
    condition = {
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
    }  # fmt: skip
    seen = see_pod(pod(conditions=[condition]))
    assert seen.trouble == Trouble(
        "Unschedulable", "0/4 nodes are available: 4 Insufficient nvidia.com/gpu", ("p1",)
    )
    assert seen.group == "h100"


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("ImagePullBackOff", 'Back-off pulling image "localhost/none:1"'),
        ("ErrImagePull", "rpc error: not found"),
        ("CreateContainerConfigError", 'secret "agent-key" not found'),
    ],
)
def test_containers_that_cannot_start(reason: str, message: str) -> None:
    assert see_pod(pod(**waiting(reason, message))).trouble == Trouble(reason, message, ("p1",))


@pytest.mark.parametrize("reason", ["ContainerCreating", "PodInitializing"])
def test_a_container_that_is_starting_is_no_trouble(reason: str) -> None:
    assert see_pod(pod(**waiting(reason))).trouble is None


def test_a_crash_loop_tells_how_it_ended() -> None:
    ended = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    status = waiting("CrashLoopBackOff", "back-off 40s", restartCount=4, lastState=ended)
    trouble = see_pod(pod(**status)).trouble
    assert trouble is not None and trouble.reason == "CrashLoopBackOff"
    assert trouble.message == "container agent ended 4 times, last with exit code 137 (OOMKilled)"
    ended["terminated"]["message"] = " \n"
    trouble = see_pod(pod(**waiting("CrashLoopBackOff", "", lastState=ended))).trouble
    assert trouble is not None and trouble.message.endswith("exit code 137 (OOMKilled)")


def test_a_pod_that_failed() -> None:
    trouble = see_pod(pod(phase="Failed", reason="Evicted", message="low on memory")).trouble
    assert trouble == Trouble("Evicted", "low on memory", ("p1",))


def test_a_disrupted_pod_and_the_head() -> None:
    condition = {
        "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
        "message": "preempting to accommodate a higher priority pod",
    }  # fmt: skip
    seen = see_pod(pod(head=True, conditions=[condition], startTime="2026-01-01T00:00:00Z"))
    assert seen.group == ""
    assert seen.disrupted.startswith("DisruptionTarget: preempting")


def node(ready: str = "True", taints: Any = (), **spec: Any) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": ready, "message": "kubelet is posting"}]
    return {
        "metadata": {"name": "k1"},
        "spec": {"taints": [{"key": key} for key in taints], **spec},
        "status": {"conditions": conditions},
    }


def test_a_good_node() -> None:
    labelled = node()
    labelled["metadata"]["labels"] = {"topology.kubernetes.io/zone": "a"}
    seen = see_node(labelled)
    assert seen.labels == {"topology.kubernetes.io/zone": "a"}
    assert (seen.dead, seen.leaving, seen.not_ready) == ("", "", "")


def test_not_ready_is_not_dead() -> None:
    seen = see_node(node(ready="Unknown", taints=["node.kubernetes.io/unreachable"]))
    assert "not ready" in seen.not_ready
    assert seen.dead == ""


def test_out_of_service_is_dead() -> None:
    assert "out-of-service" in see_node(node(taints=["node.kubernetes.io/out-of-service"])).dead


@pytest.mark.parametrize(
    ("taint", "who"),
    [
        ("ToBeDeletedByClusterAutoscaler", "autoscaler"),
        ("karpenter.sh/disrupted", "Karpenter"),
        ("cloud.google.com/impending-node-termination", "Google"),
        ("aws-node-termination-handler/spot-itn", "AWS"),
    ],
)
def test_notices_of_clouds(taint: str, who: str) -> None:
    assert who in see_node(node(taints=[taint], unschedulable=True)).leaving


def test_notices_of_azure_and_cordons() -> None:
    told = node()
    told["status"]["conditions"].append({"type": "PreemptScheduled", "status": "True"})
    assert "Azure" in see_node(told).leaving
    assert see_node(node(unschedulable=True)).leaving == "node k1 is cordoned in Kubernetes"


QUOTA = (
    'pods "c-h100-worker-b96r7" is forbidden: exceeded quota: q, requested: pods=1, used: pods=3, '
    "limited: pods=3"
)


def test_a_quota_in_words_that_do_not_change_with_each_try() -> None:
    condition = {
        "type": "ReplicaFailure", "status": "True", "reason": "FailedCreateWorkerPod",
        "message": f"FailedCreateWorkerPod\n{QUOTA}",
    }  # fmt: skip
    found = see_failures({"status": {"conditions": [condition]}})
    assert found == [
        Trouble(
            "QuotaExceeded",
            "a pod is forbidden: exceeded quota: q, requested: pods=1, used: pods=3, limited: "
            "pods=3",
        )
    ]
    assert see_failures({"status": {"conditions": [{**condition, "status": "False"}]}}) == []


def test_events_of_operators_without_conditions() -> None:
    old = {"type": "Warning", "reason": "FailedToCreateHeadPod", "message": "old",
           "lastTimestamp": "2026-01-01T00:00:00Z"}  # fmt: skip
    new = {
        **old, "lastTimestamp": "2026-01-01T00:01:00Z",
        "message": 'pods is forbidden: User "op" cannot create resource "pods" in namespace "a"',
    }  # fmt: skip
    assert [one.reason for one in see_failures({}, [new, old])] == ["Forbidden"]


def test_the_same_trouble_of_many_pods_is_one() -> None:
    found = together([Trouble("A", "x", ("p1",)), Trouble("B", "y"), Trouble("A", "x", ("p2",))])
    assert found == (Trouble("A", "x", ("p1", "p2")), Trouble("B", "y"))
