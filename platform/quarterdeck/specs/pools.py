"""Pools: Ray clusters on Kubernetes whose machines the platform brings and takes away.

The file that `QUARTERDECK_POOLS` names lists them. A pool is one RayCluster object and one cluster
of the platform; its groups are the RayCluster's worker groups.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from quarterdeck.specs.base import Name, Spec
from quarterdeck.specs.loading import LoadError, LoadProblem
from quarterdeck.specs.suggestions import field_problems
from quarterdeck.specs.units import Bytes, Seconds
from quarterdeck.specs.yaml_lines import YamlDocument, read_yaml

IDLE_AFTER_S = 600.0
NodeLabel = Annotated[
    str, Field(pattern=r"^([a-z0-9.-]+/)?[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=317)
]
LONGEST_OBJECT = 45
"""Characters of a RayCluster's name: KubeRay derives names of 63 at most from it."""


class WorkerGroup(Spec):
    """Machines of a pool that are alike: a worker group of its RayCluster."""

    name: Name
    accelerator: str = "cpu"
    """As in the hardware catalogue; what the group's agents are started with."""
    slots: Annotated[int, Field(ge=1, le=1024)]
    """Accelerators (or declared slots) of one machine."""
    cpus: Annotated[float, Field(gt=0)] | None = None
    memory: Bytes | None = None
    """What a machine has beside its slots, for jobs that ask for it; None: what a machine of the
    group last reported, and enough before the first one."""
    min_replicas: Annotated[int, Field(ge=0, le=10_000)] = 0
    max_replicas: Annotated[int, Field(ge=0, le=10_000)] = 1
    spot: bool = False
    """Machines that may be taken away at short notice, and cost less: they come first for those
    that allow them."""
    labels: dict[str, str] = {}
    idle_after: Seconds = IDLE_AFTER_S
    """A machine beyond `min_replicas` that nothing needs goes after this."""

    @model_validator(mode="after")
    def _bounds(self) -> WorkerGroup:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas: {self.min_replicas} is more than max_replicas: "
                f"{self.max_replicas}; raise max_replicas or lower min_replicas"
            )
        if self.idle_after < 0:
            raise ValueError("idle_after is below zero: write a duration like 10m, or 0")
        return self


class Pool(Spec):
    """One RayCluster and the machines that it may have."""

    name: Name
    """The cluster's name in the platform: what its agents are started with."""
    namespace: Name = "default"
    object: Name | None = None
    """The RayCluster's name; default: `quarterdeck-` and the pool's name."""
    project: Name | None = None
    """The project whose runs alone go there; None: shared by all that are not isolated."""
    topology: Annotated[list[NodeLabel], Field(max_length=6)] = ["topology.kubernetes.io/zone"]
    """Labels of Kubernetes' nodes that say where in the network one is, the widest first."""
    groups: Annotated[list[WorkerGroup], Field(min_length=1)]
    template: dict[str, Any]
    """The whole RayCluster manifest: the pods of its head and of each group."""

    @property
    def object_name(self) -> str:
        return self.object or f"quarterdeck-{self.name}"

    @model_validator(mode="after")
    def _consistent(self) -> Pool:
        if len(self.object_name) > LONGEST_OBJECT:
            raise ValueError(
                f"object: {self.object_name!r} is longer than {LONGEST_OBJECT} characters, which "
                "KubeRay cannot derive names from: give a shorter `object`"
            )
        names = [group.name for group in self.groups]
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise ValueError(f"groups: {twice[0]!r} is there twice: rename one")
        _check_template(self.template, names)
        return self


class PoolsFile(Spec):
    """The whole file."""

    pools: list[Pool]

    @model_validator(mode="after")
    def _unique(self) -> PoolsFile:
        names = [pool.name for pool in self.pools]
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise ValueError(f"pool {twice[0]!r} is there twice: rename one")
        objects = Counter((pool.namespace, pool.object_name) for pool in self.pools)
        if twice_there := [f"{space}/{name}" for (space, name), n in objects.items() if n > 1]:
            raise ValueError(f"two pools have the RayCluster {twice_there[0]}: name one `object`")
        return self


def _check_template(template: dict[str, Any], groups: list[str]) -> None:
    kind, version = template.get("kind"), str(template.get("apiVersion"))
    if kind != "RayCluster" or not version.startswith("ray.io/"):
        raise ValueError(
            f"template: kind {kind!r} of {version!r} is not a RayCluster: write "
            "apiVersion: ray.io/v1 and kind: RayCluster"
        )
    spec = template.get("spec")
    if not isinstance(spec, dict) or not isinstance(spec.get("headGroupSpec"), dict):
        raise ValueError("template.spec.headGroupSpec is missing: write the head's pod template")
    if spec.get("enableInTreeAutoscaling"):
        raise ValueError(
            "template.spec.enableInTreeAutoscaling is on: two would size the groups; leave it out, "
            "the platform does it"
        )
    workers = spec.get("workerGroupSpecs")
    for worker in workers if isinstance(workers, list) else []:
        if isinstance(worker, dict) and worker.get("numOfHosts", 1) != 1:
            raise ValueError(
                "template.spec.workerGroupSpecs: numOfHosts is not 1: one replica is one machine; "
                "leave it out"
            )
    there = [
        str(worker.get("groupName"))
        for worker in (workers if isinstance(workers, list) else [])
        if isinstance(worker, dict)
    ]
    if sorted(there) != sorted(groups):
        raise ValueError(
            f"template.spec.workerGroupSpecs has groupName {', '.join(there) or 'none'}, the pool "
            f"has groups {', '.join(groups)}: write one worker group for each, of the same name"
        )


def read_pools(path: Path) -> list[Pool]:
    """The pools of a file. Raises LoadError with every mistake and its line."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        problem = LoadProblem(str(path), 0, "", f"is not UTF-8 text: {error.reason}")
        raise LoadError([problem]) from error
    except OSError as error:
        problem = LoadProblem(str(path), 0, "", f"cannot be read: {error.strerror}")
        raise LoadError([problem]) from error
    return parse_pools(text, str(path))


def parse_pools(text: str, source: str) -> list[Pool]:
    """The pools of a YAML text; `source` names it in messages. Raises LoadError."""
    documents = list(read_yaml(text))
    problems = [
        LoadProblem(source, problem.line, problem.path, problem.message)
        for document in documents
        for problem in document.problems
    ]
    if not documents:
        problems.append(LoadProblem(source, 0, "pools", "is missing: write a list of pools"))
    if len(documents) > 1:
        message = "is a second document: one file has one list of pools"
        problems.append(LoadProblem(source, documents[1].line, "", message))
    if problems:
        raise LoadError(problems)
    return _validated(documents[0], source)


def _validated(document: YamlDocument, source: str) -> list[Pool]:
    try:
        return PoolsFile.model_validate(document.value).pools
    except ValidationError as error:
        raise LoadError(
            [
                LoadProblem(source, document.line_of(found.path), found.path, found.message)
                for found in field_problems(error, PoolsFile, "")
            ]
        ) from error
