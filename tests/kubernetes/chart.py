"""The chart as tests see it: rendered objects, and the pods in them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "quarterdeck"
EXAMPLES = sorted((ROOT / "deploy" / "helm" / "examples").glob("*.yaml"))
IDS = [file.stem for file in EXAMPLES]
RELEASE, NAMESPACE = "qd", "ml"
LEAST = {
    "image.registry": "registry.test/team",
    "keys.existingSecret": "keys",
    "database.existingSecret": "database",
    "artifacts.uri": "s3://bucket/here",
}
"""The values that every installation must give."""
Object = dict[str, Any]


def read_all(text: str) -> list[Object]:
    """The documents of a YAML text, as YAML 1.2 has them: as the controller reads its file."""
    return [one for one in YAML(typ="safe").load_all(text) if one]


@dataclass(frozen=True)
class Pod:
    """A pod's template with the object that makes such pods."""

    owner: str
    component: str
    template: Object
    claims: tuple[str, ...] = ()
    """Volumes that a StatefulSet adds."""

    @property
    def spec(self) -> Object:
        spec: Object = self.template["spec"]
        return spec

    @property
    def containers(self) -> list[Object]:
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]


class Chart:
    """Renders the chart with the real Helm."""

    def __init__(self, helm: Path, folder: Path) -> None:
        self._helm = helm
        self.environment = {
            **os.environ,
            **{f"HELM_{kind}_HOME": str(folder / kind) for kind in ("CACHE", "CONFIG", "DATA")},
        }

    def helm(self, *arguments: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
        """Run Helm as it is; nothing is checked."""
        return subprocess.run(
            [self._helm, *arguments], env=self.environment, capture_output=True, text=True,
            timeout=seconds, check=False,
        )  # fmt: skip

    def template(
        self, values: Mapping[str, object] | None = None, *options: str, files: Sequence[Path] = ()
    ) -> subprocess.CompletedProcess[str]:
        """`helm template` with values files, then values by their dotted paths."""
        given = [argument for file in files for argument in ("-f", str(file))]
        for path, value in (values or {}).items():
            given += ["--set-json", f"{path}={json.dumps(value)}"]
        return self.helm("template", RELEASE, str(CHART), "-n", NAMESPACE, *given, *options)

    def text(
        self, values: Mapping[str, object] | None = None, *, files: Sequence[Path] = ()
    ) -> str:
        """The rendered text; without a values file, of the least values that are needed."""
        least = {} if files else LEAST
        done = self.template({**least, "kuberay.skipCheck": True, **(values or {})}, files=files)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def objects(
        self, values: Mapping[str, object] | None = None, *, files: Sequence[Path] = ()
    ) -> list[Object]:
        """The rendered objects."""
        return read_all(self.text(values, files=files))

    def refusal(self, values: Mapping[str, object]) -> str:
        """What is said instead of rendering."""
        done = self.template(values)
        assert done.returncode != 0, f"{values} were rendered"
        return done.stderr


def of_kind(objects: Sequence[Object], *kinds: str) -> list[Object]:
    return [one for one in objects if one["kind"] in kinds]


def named(objects: Sequence[Object], kind: str, name: str) -> Object:
    (found,) = [one for one in of_kind(objects, kind) if one["metadata"]["name"] == name]
    return found


def component_of(labels: Mapping[str, str]) -> str:
    return labels["app.kubernetes.io/component"]


def rayclusters(objects: Sequence[Object]) -> list[Object]:
    """What the controller would make of the pools' file, each group at its most."""
    found = []
    for pool in pools_of(objects):
        cluster: Object = pool["template"]
        for group, worker in zip(pool["groups"], cluster["spec"]["workerGroupSpecs"], strict=True):
            most = group["max_replicas"]
            worker |= {"replicas": most, "minReplicas": 0, "maxReplicas": most}
        found.append(cluster)
    return found


def pools_of(objects: Sequence[Object]) -> list[Object]:
    files = [
        one["data"]["pools.yaml"]
        for one in of_kind(objects, "ConfigMap")
        if "pools.yaml" in one["data"]
    ]
    return [pool for file in files for pool in read_all(file)[0]["pools"]]


def pods(objects: Sequence[Object]) -> Iterator[Pod]:
    """Every pod that may come of these objects, those of pools too."""
    for one in objects:
        name = f"{one['kind']}/{one['metadata']['name']}"
        if one["kind"] == "Pod":
            yield Pod(name, component_of(one["metadata"]["labels"]), one)
        elif one["kind"] in ("Deployment", "StatefulSet", "Job"):
            template = one["spec"]["template"]
            claims = one["spec"].get("volumeClaimTemplates", ())
            names = tuple(claim["metadata"]["name"] for claim in claims)
            yield Pod(name, component_of(template["metadata"]["labels"]), template, names)
    for cluster in rayclusters(objects):
        name = f"RayCluster/{cluster['metadata']['name']}"
        spec = cluster["spec"]
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            template = group["template"]
            label = f"{name}/{group.get('groupName', 'head')}"
            yield Pod(label, component_of(template["metadata"]["labels"]), template)
