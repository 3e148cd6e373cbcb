"""What the scheduler sees and what it answers. Plain values: no clock, no database, no network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from math import inf

from quarterdeck.specs.accelerator_share import WHOLE
from quarterdeck.specs.protocol import RankPlacement
from quarterdeck.specs.tenancy import Tenancy

MEMORY_UNKNOWN = 1 << 62
"""Bytes of a machine of which nobody knows: enough for everything."""


@dataclass(frozen=True)
class NodeView:
    """One machine. Only `alive` ones that are neither cordoned nor quarantined take new ranks."""

    id: str
    cluster: str
    slots: int
    accelerator: str = "cpu"
    host: str = ""
    phase: str = "alive"
    cordoned: bool = False
    quarantined: bool = False
    cpus: float = 0.0
    memory: int = 0
    spot: bool | None = False
    """May be taken away at short notice; None: nobody knows yet."""
    topology: str = ""
    """Where it is, from the widest domain to the narrowest: `zone-a/rack-3` (topology.py)."""

    @property
    def usable(self) -> bool:
        return self.phase == "alive" and not self.cordoned and not self.quarantined


@dataclass(frozen=True)
class GroupView:
    """Machines of one cluster that are alike and that may come by themselves: a pool's group."""

    cluster: str
    name: str
    slots: int
    accelerator: str = "cpu"
    cpus: float = inf
    memory: int = MEMORY_UNKNOWN
    """Of one machine, `memory` in bytes."""
    coming: int = 0
    """Ordered, and not there yet."""
    room: int = 0
    """How many more may be ordered."""
    most: int = 0
    """How many there may be in all."""
    trouble: str = ""
    """Why those that were ordered do not come."""
    ordered: int = 0
    """How many are asked of the provider now."""
    spot: bool = False
    short: str = ""
    """Why its machines are not counted on where others will do: they have not come for long."""
    budget: str = ""
    """Pools of one budget have `most` machines of a group together; empty: the cluster's own."""
    image: str = ""
    """The image of the one run for which the cluster is made."""
    barred: bool = False
    """Nothing can be ordered of its pool now: only what has no other waits for it."""

    @property
    def purse(self) -> tuple[str, str]:
        """Whose machines are counted together."""
        return (self.budget or self.cluster, self.name)

    @property
    def key(self) -> tuple[str, str]:
        return (self.cluster, self.accelerator.lower())


@dataclass(frozen=True)
class Hold:
    """What one run holds, by node: whole slots, cpus and bytes of memory. A node of which it has
    but a part of a slot is among `slots` with 0.

    `ends_at` is its start plus `max_duration`; None: nobody knows. A quarantined run holds its
    slots without an end.
    """

    label: str
    cluster: str
    slots: Mapping[str, int]
    cpus: Mapping[str, float] = field(default_factory=dict)
    memory: Mapping[str, int] = field(default_factory=dict)
    ends_at: datetime | None = None
    quarantined: bool = False
    """Of a run that was given up and is not proven dead."""
    shared: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    """Parts of shared slots: by node and number of the slot its thousandths."""
    project: str = "default"
    service: str = ""
    """The id of the service of which the run is a replica."""


@dataclass(frozen=True)
class Part:
    """The ranks of one role of a gang, with what each of them holds: its slot's accelerator and
    what comes beside it."""

    role: str
    ranks: int
    cpus: float | None = None
    memory: int | None = None
    accelerator: str | None = None
    """All roles of a gang name one, or none does."""


@dataclass(frozen=True)
class Request:
    """A gang that wants to start: `pipeline` × `data` tensor groups of `tensor` ranks.

    One slot for each rank, or, of a single rank, `share` thousandths of one; `cpus` and `memory`
    (bytes) are per rank where the job asks for them.
    `parts` are the roles of a gang that has some, in the order of their ranks; where they name
    accelerators, those count. `avoid` names nodes that hold an earlier, unproven attempt of the
    same owner.
    """

    id: str
    label: str
    priority: int
    ordinal: int
    data: int = 1
    tensor: int = 1
    pipeline: int = 1
    cluster: str | None = None
    accelerator: str | None = None
    cpus: float | None = None
    memory: int | None = None
    max_duration: float | None = None
    avoid: frozenset[str] = frozenset()
    excluded: Mapping[str, str] = field(default_factory=dict)
    """Nodes that it is kept off, and why: they failed it."""
    shunned: Mapping[str, str] = field(default_factory=dict)
    """The same, but only as long as it would fit without them."""
    smaller: tuple[tuple[int, int, int], ...] = ()
    """Degrees (data, tensor, pipeline) to make do with, the ones to prefer first."""
    parts: tuple[Part, ...] = ()
    share: int = WHOLE
    spot: str = "allow"
    """Machines that may be taken away: allow, avoid or only (specs.common.Spot)."""
    project: str = "default"
    service: str = ""
    """The id of the service of which it is a replica: they are spread (replicas.py)."""
    closed: Mapping[str, str] = field(default_factory=dict)
    """Clusters that it may not use, and why: the plan fills it in (tenancy.py)."""

    @property
    def ranks(self) -> int:
        return self.pipeline * self.data * self.tensor

    @property
    def models(self) -> tuple[str, ...]:
        """The accelerators that it names, in lower case, each once; none: one kind, whichever."""
        names = [part.accelerator for part in self.parts if part.accelerator]
        if not names:
            return (self.accelerator.lower(),) if self.accelerator else ()
        return tuple(dict.fromkeys(name.lower() for name in names))

    def on(self, model: str) -> Request:
        """The request of the roles that name this accelerator (in lower case)."""
        mine = tuple(part for part in self.parts if (part.accelerator or "").lower() == model)
        return replace(self, data=sum(part.ranks for part in mine), parts=mine, smaller=())

    def of(self, part: Part) -> Request:
        """The request of one role alone."""
        return replace(
            self, data=part.ranks, cpus=part.cpus, memory=part.memory, parts=(), smaller=()
        )


@dataclass(frozen=True)
class Snapshot:
    """All that a plan depends on. `clusters` maps a cluster's name to whether it is connected."""

    clusters: Mapping[str, bool]
    nodes: tuple[NodeView, ...]
    holds: tuple[Hold, ...]
    requests: tuple[Request, ...]
    groups: tuple[GroupView, ...] = ()
    tenancy: Tenancy = field(default_factory=Tenancy)
    exclusive: Mapping[str, str] = field(default_factory=dict)
    """Clusters that take one request alone, and its id."""


@dataclass(frozen=True)
class Assignment:
    request_id: str
    cluster: str
    placements: tuple[RankPlacement, ...]
    smaller: int | None = None
    """Which of the request's smaller gangs starts; None: the full one."""
    why: str = ""
    """Why not the full one."""
    clusters: Mapping[str, str] = field(default_factory=dict)
    """Why this cluster, and none of the others: by name, where there was a choice."""
    domain: str = ""
    """The narrowest part of the network that has all of its machines, where there are several."""


@dataclass(frozen=True)
class Pending:
    """Why a request waits: a typed reason, a sentence, further facts, and the estimated start."""

    request_id: str
    reason: str
    message: str
    facts: tuple[str, ...] = ()
    starts_at: datetime | None = None


@dataclass(frozen=True)
class Demand:
    """What gangs that wait need of a pool's group.

    `coming` of the machines that are ordered already, and `new` ones. `whom` are the labels of
    the gangs; `blocked` is the first that would fit, but not beside what runs in the pool.
    """

    new: int = 0
    coming: int = 0
    whom: tuple[str, ...] = ()
    blocked: str = ""
    instead: str = ""
    """The group in whose place these come, because its machines have not come for long."""


@dataclass(frozen=True)
class Plan:
    assignments: tuple[Assignment, ...]
    pending: tuple[Pending, ...]
    demands: Mapping[tuple[str, str], Demand] = field(default_factory=dict)
    """By cluster and group."""
    reserved: frozenset[str] = frozenset()
    """Nodes that gangs count on which wait for more machines."""
