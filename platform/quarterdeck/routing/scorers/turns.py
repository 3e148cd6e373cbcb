"""Everybody in turn, by weight: the next is the one whose last turn lies furthest back.

Earliest deadline first, as in Envoy's weighted round robin, or stride scheduling (Waldspurger
and Weihl, 1995): a turn moves a replica's deadline on by 1/weight, and the earliest deadline is
next. Who comes, or comes back, starts at the present: absence saves up no turns.

Example: a has weight 2, b weight 1. Deadlines after each turn: a ½, b 1, a 1, then again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from quarterdeck.routing.replicas import ReplicaView, RouteRequest, Scored

_SMALLEST = 1e-6


class Turns:
    """A scorer and its memory. `weight_of` says how often a replica's turn comes."""

    def __init__(self, weight_of: Callable[[ReplicaView], float]) -> None:
        self._weight_of = weight_of
        self._deadlines: dict[str, float] = {}
        self._now = 0.0

    def __call__(self, request: RouteRequest, replicas: Sequence[ReplicaView]) -> Scored:
        deadlines = [self._deadline(replica.run_id) for replica in replicas]
        first = min(deadlines)
        scores = [
            1.0 / (1.0 + deadline - first) if self._weight_of(replica) > 0 else 0.0
            for replica, deadline in zip(replicas, deadlines, strict=True)
        ]
        return Scored(scores, "its turn")

    def sent(self, request: RouteRequest, replica: ReplicaView) -> None:
        """The replica had its turn."""
        self._now = self._deadline(replica.run_id)
        stride = 1.0 / max(self._weight_of(replica), _SMALLEST)
        self._deadlines[replica.run_id] = self._now + stride

    def keep(self, runs: frozenset[str]) -> None:
        """Forget the other replicas."""
        self._deadlines = {run: at for run, at in self._deadlines.items() if run in runs}

    def _deadline(self, run_id: str) -> float:
        return max(self._deadlines.get(run_id, self._now), self._now)
