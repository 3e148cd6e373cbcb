"""The pool that is made for one run: another image, another cluster, all else as the template."""

from __future__ import annotations

from typing import Any

import pytest

from quarterdeck.cluster.images import for_image, own_name, own_pool
from quarterdeck.cluster.provider import ProviderError
from quarterdeck.cluster.raycluster import is_ours, manifest
from quarterdeck.specs.pools import Pool

PROXY = {"name": "proxy", "image": "proxy:2", "args": ["--cluster", "gpu"]}
LABELS = {"quarterdeck.io/cluster": "gpu", "team": "a"}


def pod(*args: str, **fields: Any) -> dict[str, Any]:
    ray = {"name": "ray", "image": "worker:1", "command": ["quarterdeck", "agent"],
           "args": list(args), **fields}  # fmt: skip
    return {
        "metadata": {"labels": dict(LABELS)},
        "spec": {
            "initContainers": [{"name": "wait", "image": "worker:1"}],
            "containers": [ray, dict(PROXY)],
        },
    }  # fmt: skip


def pool(head: Any = None, worker: Any = None, **fields: Any) -> Pool:
    head = head or pod("--url", "http://api", "--cluster", "gpu", "--slots", "0")
    worker = worker or pod("--join", "http://api", "--cluster=gpu")
    return Pool.model_validate(
        {
            "name": "gpu", "project": "nlp",
            "groups": [{"name": "h100", "slots": 8, "min_replicas": 1, "max_replicas": 4}],
            "template": {
                "apiVersion": "ray.io/v1", "kind": "RayCluster",
                "metadata": {"labels": dict(LABELS)},
                "spec": {
                    "headGroupSpec": {"template": head},
                    "workerGroupSpecs": [{"groupName": "h100", "template": worker}],
                },
            },
            **fields,
        }
    )  # fmt: skip


def test_ray_its_agent_and_what_belongs_to_them_get_the_image_and_the_new_cluster() -> None:
    of = pool()
    made = for_image(of, "job-1", 0, "team/train:3")
    name = made.name
    assert name.startswith("gpu-") and name != "gpu"
    cluster = manifest(made)
    assert cluster["metadata"]["name"] == made.object_name != of.object_name
    assert cluster["metadata"]["labels"] == {
        "quarterdeck.io/cluster": "gpu", "team": "a", "quarterdeck.io/image-of": "gpu",
        "quarterdeck.io/pool": name, "app.kubernetes.io/managed-by": "quarterdeck",
    }  # fmt: skip
    spec = cluster["spec"]
    head = spec["headGroupSpec"]["template"]
    (worker,) = spec["workerGroupSpecs"]
    for one in (head, worker["template"]):
        assert one["metadata"]["labels"] == LABELS  # what network policies ask for
        ray, proxy = one["spec"]["containers"]
        assert ray["image"] == one["spec"]["initContainers"][0]["image"] == "team/train:3"
        assert proxy == PROXY
    assert head["spec"]["containers"][0]["args"][2:4] == ["--cluster", name]
    assert worker["template"]["spec"]["containers"][0]["args"][-1] == f"--cluster={name}"
    assert worker["replicas"] == 0
    assert made.project == "nlp"
    assert of == pool()  # the template is the pool's still
    assert is_ours(cluster, made) and not is_ours(cluster, of)


def test_each_run_has_its_own_name_and_it_is_the_same_whoever_asks() -> None:
    names = {own_name("gpu", job, epoch) for job in ("job-1", "job-2") for epoch in (0, 1)}
    assert len(names) == 4
    assert own_name("gpu", "job-1", 1) == own_name("gpu", "job-1", 1)
    made = own_pool(pool(name="g" * 60, object="o" * 45), "job-1", 0)
    assert len(made.name) <= 63
    assert len(made.object_name) <= 45  # what KubeRay can derive names from


def test_an_agent_that_is_started_by_a_shell() -> None:
    line = "exec quarterdeck agent --cluster gpu --slots 0; echo --cluster gpu2"
    made = for_image(pool(pod(line)), "job-1", 0, "a:1")
    args = made.template["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["args"]
    assert args == [line.replace("gpu ", f"{made.name} ")]


@pytest.mark.parametrize("args", [(), ("--cluster", "$(POOL)"), ("--cluster", "gpu2")])
def test_an_agent_that_would_join_the_pool_is_refused(args: tuple[str, ...]) -> None:
    with pytest.raises(ProviderError, match="not started with --cluster gpu"):
        for_image(pool(worker=pod(*args)), "job-1", 0, "a:1")
