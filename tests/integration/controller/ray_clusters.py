"""RayClusters as a provider sees them, without Kubernetes: tests/kubernetes has the real ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from quarterdeck.cluster.provider import NodeSeen, PodSeen, PoolSeen, ProviderError, Trouble
from quarterdeck.specs.pools import Pool


@dataclass
class Kubernetes:
    """RayClusters by name, each with as many pods as were ordered."""

    sizes: dict[str, int] = field(default_factory=dict)
    images: dict[str, str] = field(default_factory=dict)
    deleting: set[str] = field(default_factory=set)
    trouble: Trouble | None = None
    refuse_to_delete: bool = False
    stuck: set[str] = field(default_factory=set)
    """Whose pods are on a node that is dead: they stay until somebody buries them."""


@dataclass
class Provider:
    """One of them."""

    kubernetes: Kubernetes
    pool: Pool

    @property
    def name(self) -> str:
        return self.pool.name

    def beside(self, pool: Pool) -> Provider:
        return Provider(self.kubernetes, pool)

    def look(self) -> PoolSeen | None:
        there = self.kubernetes
        if self.name not in there.sizes:
            return None
        size = there.sizes[self.name]
        trouble = there.trouble if self.name != "gpu" else None
        pods = [
            PodSeen(f"{self.name}-{i}", f"uid-{self.name}-{i}", "g", node="k", trouble=trouble)
            for i in range(size)
        ]
        return PoolSeen(
            version="1", replicas={"g": size}, pods=tuple(pods),
            nodes={"k": NodeSeen("k", dead="gone" if self.name in there.stuck else "")},
            ending=datetime.now(UTC) if self.name in there.deleting else None,
        )  # fmt: skip

    def create(self) -> None:
        if self.name in self.kubernetes.sizes:
            raise ProviderError("Conflict", "it is there")
        self.kubernetes.sizes[self.name] = 0
        pod = self.pool.template["spec"]["headGroupSpec"]["template"]["spec"]
        self.kubernetes.images[self.name] = pod["containers"][0]["image"]

    def resize(self, seen: PoolSeen, wanted: Mapping[str, int], remove: Sequence[str]) -> bool:
        changed = self.kubernetes.sizes[self.name] != wanted["g"]
        self.kubernetes.sizes[self.name] = wanted["g"]
        return changed

    def delete(self) -> bool:
        if self.kubernetes.refuse_to_delete:
            raise ProviderError("Forbidden", "rayclusters: cannot delete")
        if self.name in self.kubernetes.deleting:
            if self.name in self.kubernetes.stuck:
                return False
            self.kubernetes.deleting.remove(self.name)
            del self.kubernetes.sizes[self.name]
            return False
        if self.name in self.kubernetes.sizes:
            self.kubernetes.deleting.add(self.name)
            return False
        return True

    def bury(self, pod: PodSeen) -> None:
        self.kubernetes.stuck.remove(self.name)
