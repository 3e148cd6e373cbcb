"""What routing decides over: a moment's view of the replicas of one service."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, NamedTuple, Protocol

RefusalReason = Literal["no_replicas", "not_ready", "draining", "all_tried"]


# Not frozen, which would treble the cost of what is made for each request and replica.
@dataclass(slots=True)
class ReplicaView:
    """One replica as a gateway sees it now. `in_flight` counts this gateway's own requests, `limit`
    is how many it takes at once.

    `ready` means that a real request of its kind was answered; `unreachable` that its connection
    broke a moment ago; `ejected` that its answers failed lately. `weight` is its share beside
    others with the same load, `ramp` what of it a replica that has just become ready gets.
    `latency` is this gateway's estimate of the time to the first byte, in seconds.

    The engine's own numbers, None when it did not tell them lately: `waiting` requests, the free
    share of its KV cache (0 to 1), its LoRA adapters in use and waited for, and how many it can
    hold.
    """

    run_id: str
    url: str
    ready: bool = True
    draining: bool = False
    ejected: bool = False
    unreachable: bool = False
    in_flight: int = 0
    limit: int | None = None
    weight: float = 1
    ramp: float = 1.0
    latency: float | None = None
    waiting: int | None = None
    kv_free: float | None = None
    adapters: frozenset[str] = frozenset()
    adapters_waiting: frozenset[str] = frozenset()
    adapter_slots: int | None = None
    revision: int = 0

    @property
    def share(self) -> float:
        """Its weight now, never negative."""
        return max(self.weight, 0.0) * self.ramp


@dataclass(frozen=True)
class RouteRequest:
    """What is known of a request.

    `tried` are the replicas that it was already sent to, `session` keeps requests together,
    `prompt` is the beginning of its text, `opening` the part of that which later turns of the
    same conversation repeat, `own_after` how many characters other conversations may share,
    `adapter` the LoRA adapter that it wants.
    """

    tried: frozenset[str] = frozenset()
    session: str = ""
    prompt: str = ""
    opening: str = ""
    own_after: int = 0
    adapter: str = ""


@dataclass(frozen=True)
class Refusal:
    """No replica can take the request; `message` is for people."""

    reason: RefusalReason
    message: str


class Scored(NamedTuple):
    """A score for each replica, from 0 (worst) to 1 (best), and in words what decided."""

    values: list[float]
    why: str = ""


Filter = Callable[[RouteRequest, Sequence[ReplicaView]], list[ReplicaView]]
"""Keeps the replicas that may take a request, in order."""

Scorer = Callable[[RouteRequest, Sequence[ReplicaView]], Scored]
"""Judges at least one replica, without effect: the same question has the same answer."""

Picker = Callable[[Sequence[ReplicaView], Sequence[float], Random], ReplicaView]
"""Chooses one of at least one replica by its summed score."""


class Memory(Protocol):
    """What a policy remembers from one request to the next."""

    def sent(self, request: RouteRequest, replica: ReplicaView) -> None:
        """A request goes to a replica."""

    def keep(self, runs: frozenset[str]) -> None:
        """These replicas exist: forget all others."""
