"""What routing decides over: a moment's view of the replicas of one service."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

RefusalReason = Literal["no_replicas", "not_ready", "draining", "all_tried"]


@dataclass(frozen=True)
class ReplicaView:
    """One replica as a gateway sees it now. `in_flight` counts this gateway's own requests.

    `ready` means that a real request of its kind was answered; `ejected` that it failed lately
    and is rested. `weight` is its share beside others with the same load.
    """

    run_id: str
    url: str
    ready: bool = True
    draining: bool = False
    ejected: bool = False
    in_flight: int = 0
    weight: int = 1


@dataclass(frozen=True)
class RouteRequest:
    """What is known of a request: the replicas that it was already sent to."""

    tried: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Refusal:
    """No replica can take the request; `message` is for people."""

    reason: RefusalReason
    message: str


Filter = Callable[[RouteRequest, Sequence[ReplicaView]], list[ReplicaView]]
"""Keeps the replicas that may take a request, in order."""

Scorer = Callable[[RouteRequest, Sequence[ReplicaView]], list[float]]
"""A score from 0 (worst) to 1 (best) for each replica."""

Picker = Callable[[Sequence[ReplicaView], Sequence[float], Random], ReplicaView]
"""Chooses one of at least one replica by its summed score."""
