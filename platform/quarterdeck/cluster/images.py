"""A pool for one run: the template of another pool with the image that the run asks for. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

from quarterdeck.cluster.provider import ProviderError
from quarterdeck.specs.pools import LONGEST_OBJECT, Pool

IMAGE_OF = "quarterdeck.io/image-of"
"""Label of a RayCluster that was made for one run: the pool whose template it has."""
_TAG = 10
LONGEST_NAME = 63


def own_name(pool: str, owner_id: str, epoch: int, longest: int = LONGEST_NAME) -> str:
    """The name of the cluster for the run that follows `epoch` of a job: the same whoever asks,
    so that it is made once."""
    tag = hashlib.sha256(f"{owner_id}/{epoch}".encode()).hexdigest()[:_TAG]
    return f"{pool[: longest - _TAG - 1].rstrip('-')}-{tag}"


def own_pool(pool: Pool, owner_id: str, epoch: int) -> Pool:
    """The pool for one run by its names, with the template as it is: enough to end it."""
    object_ = own_name(pool.object_name, owner_id, epoch, LONGEST_OBJECT)
    groups = [group.model_copy(update={"min_replicas": 0}) for group in pool.groups]
    name = own_name(pool.name, owner_id, epoch)
    return pool.model_copy(update={"name": name, "object": object_, "groups": groups})


def for_image(pool: Pool, owner_id: str, epoch: int, image: str) -> Pool:
    """The pool for one run. Each pod's first container is the one with Ray: it gets the image, and
    so do those that had the same; what they are started with names the new cluster.

    Raises ProviderError where the pool's agents do not name their cluster in a way that can be
    changed.
    """
    own = own_pool(pool, owner_id, epoch)
    name = own.name
    template = json.loads(json.dumps(pool.template))  # pods that YAML's aliases share part here
    for group in _groups(template):
        if not _change(group.get("template") or {}, pool.name, name, image):
            raise ProviderError(
                "Refused",
                f"pool {pool.name} cannot run images: in its template an agent is not started "
                f"with --cluster {pool.name}, so that it would join the pool; write that into "
                "command or args of each pod's first container",
            )
    meta = template.setdefault("metadata", {})
    # Other labels stay: network policies that hold for the pool's pods hold for these.
    meta["labels"] = {**(meta.get("labels") or {}), IMAGE_OF: pool.name}
    return own.model_copy(update={"template": template})


def _groups(template: dict[str, Any]) -> Iterator[dict[str, Any]]:
    spec = template["spec"]
    yield spec["headGroupSpec"]
    yield from spec.get("workerGroupSpecs") or ()


def _change(pod: dict[str, Any], old: str, new: str, image: str) -> bool:
    """Whether the pod's agent names the new cluster now."""
    spec = pod.get("spec") or {}
    containers = spec.get("containers") or []
    if not containers:
        return False
    before = containers[0].get("image")
    for container in [*containers, *(spec.get("initContainers") or ())]:
        if container is containers[0] or container.get("image") == before:
            container["image"] = image
    changed = False
    for field in ("command", "args"):
        words = [str(word) for word in containers[0].get(field) or ()]
        renamed = _renamed(words, old, new)
        if renamed != words:
            containers[0][field], changed = renamed, True
    return changed


def _renamed(words: list[str], old: str, new: str) -> list[str]:
    """`--cluster OLD`, as two words, one, or inside a line of a shell."""
    inside = re.compile(rf"(--cluster[= ]){re.escape(old)}(?![\w.-])")
    return [
        new if before == "--cluster" and word == old else inside.sub(rf"\g<1>{new}", word)
        for before, word in zip(["", *words], words, strict=False)
    ]
