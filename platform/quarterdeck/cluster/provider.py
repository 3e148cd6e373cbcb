"""What a provider of machines tells of a pool, and what it is asked to do. Plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from quarterdeck.specs.pools import Pool

Reason = Literal[
    "NoCredentials", "KubernetesUnreachable", "Forbidden", "NotFound", "Conflict", "Refused",
    "NotOurs",
]  # fmt: skip


class ProviderError(Exception):
    """A call that did not succeed: a typed reason and what to do."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Trouble:
    """Why machines do not come, in Kubernetes' own words, and the pods it is true of."""

    reason: str
    message: str
    pods: tuple[str, ...] = ()

    def __str__(self) -> str:
        who = f"{len(self.pods)} pods, e.g. " if len(self.pods) > 1 else ""
        where = f" ({who}{self.pods[0]})" if self.pods else ""
        return f"{self.reason}: {self.message}{where}"


@dataclass(frozen=True)
class PodSeen:
    """One pod of a pool."""

    name: str
    uid: str
    group: str
    """Empty: the head."""
    node: str = ""
    """The Kubernetes node that it is bound to."""
    address: str = ""
    phase: str = "Pending"
    deleting: bool = False
    started_at: datetime | None = None
    trouble: Trouble | None = None
    disrupted: str = ""
    """Why Kubernetes is about to take it away."""


@dataclass(frozen=True)
class NodeSeen:
    """One Kubernetes node that pods of a pool are bound to; words, empty where it is not so."""

    name: str
    dead: str = ""
    """Deleted, or tainted out-of-service: what ran there does not any more."""
    leaving: str = ""
    """Cordoned, or told that it will be taken away."""
    not_ready: str = ""
    """Nobody knows how it is."""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PoolSeen:
    """A pool as the provider has it now."""

    version: str
    """Compared when it is resized."""
    replicas: Mapping[str, int]
    """Ordered machines, by group."""
    removing: frozenset[str] = frozenset()
    """Pods that were named to go."""
    pods: tuple[PodSeen, ...] = ()
    nodes: Mapping[str, NodeSeen] = field(default_factory=dict)
    troubles: tuple[Trouble, ...] = ()
    """Of the pool as a whole: pods that cannot be created, settings that do not hold."""
    ending: datetime | None = None
    """Since when it is being deleted: nothing is ordered of it any more."""

    @property
    def head(self) -> PodSeen | None:
        """The head's pod."""
        return next((pod for pod in self.pods if not pod.group), None)

    def node_of(self, pod: PodSeen) -> NodeSeen:
        """The node of a pod; nothing is known against one that was not read."""
        return self.nodes.get(pod.node) or NodeSeen(pod.node)


class PoolProvider(Protocol):
    """Brings and takes away the machines of one pool. Every call may raise ProviderError."""

    def look(self) -> PoolSeen | None:
        """The pool as it is; None: it is not there."""
        ...

    def create(self) -> None:
        """Make it from its template, each group at its least."""
        ...

    def resize(self, seen: PoolSeen, wanted: Mapping[str, int], remove: Sequence[str]) -> bool:
        """Order this many machines of each group, and name the pods that go; whether anything
        was to be changed. Refused as Conflict when the pool changed since it was `seen`."""
        ...

    def beside(self, pool: Pool) -> PoolProvider:
        """The provider of another pool in the same place."""
        ...

    def delete(self) -> bool:
        """Take the whole pool away; whether it is gone, its pods too."""
        ...

    def bury(self, pod: PodSeen) -> None:
        """Take a dead machine's pod away, so that another one comes."""
        ...
