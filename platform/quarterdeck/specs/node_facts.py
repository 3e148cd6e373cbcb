"""What the api tells of a machine beside its columns: who shares a slot, what given-up runs hold,
how it failed."""

from __future__ import annotations

from datetime import datetime

from quarterdeck.specs.base import Message


class QuarantinedRun(Message):
    """A run that was given up while nobody knew whether it lives: it holds these slots until its
    agent sees it dead or somebody confirms the death of its machines."""

    run_id: str
    owner: str
    """`job/NAME` or `service/NAME`."""
    epoch: int
    slots: float
    """A replica may hold but a part of one."""
    since: datetime | None = None


class SlotHolder(Message):
    """A replica and the part of a shared slot that it holds, 0 to 1."""

    run_id: str
    owner: str
    """`service/NAME`."""
    share: float


class SharedSlot(Message):
    """A slot of which replicas hold parts: nothing else runs there."""

    number: int
    """Of this machine's shared slots; it names no device."""
    free: float
    """The part that nothing holds, 0 to 1."""
    holders: list[SlotHolder] = []


class ConfirmedDeath(Message):
    by: str
    reason: str
    at: datetime


class NodeFault(Message):
    """An attempt that the machine failed, by a log policy or by its own failure."""

    owner_name: str
    epoch: int
    rank: int | None = None
    policy: str
    message: str
    at: datetime
