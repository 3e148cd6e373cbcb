"""What the api tells of a cluster whose machines come by themselves."""

from __future__ import annotations

from datetime import datetime

from quarterdeck.specs.base import Message


class PoolTrouble(Message):
    """Why machines do not come, and the pods it is true of."""

    reason: str
    message: str
    pods: list[str] = []


class PoolGroup(Message):
    """A pool's machines that are alike, with the last decision on how many there are."""

    name: str
    accelerator: str = "cpu"
    slots: int
    """Of one machine."""
    spot: bool = False
    min_replicas: int
    max_replicas: int
    wanted: int = 0
    here: int = 0
    """Machines that their agents report alive."""
    coming: int = 0
    constraint: str = ""
    """What bound the decision: demand, min_replicas, max_replicas, quota, idle, busy, waiting."""
    bound_by: str = ""
    trouble: list[PoolTrouble] = []


class PoolStatus(Message):
    """The machines that a cluster on Kubernetes may have."""

    namespace: str
    object: str
    """The RayCluster's name."""
    groups: list[PoolGroup] = []
    of_pool: str | None = None
    """Set: it was made from that pool for one run, whose pods have `image`."""
    image: str = ""
    reason: str = ""
    """What is wrong with the pool as a whole."""
    message: str = ""
    looked_at: datetime | None = None
