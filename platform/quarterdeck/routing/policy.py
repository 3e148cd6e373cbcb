"""A policy: filters, then weighted scorers, then a picker; and what it remembers.

Example: three ready replicas with 4, 0 and 0 requests in flight under `least_requests`: the
filters keep all three, the scorer says 0.2, 1 and 1, the picker draws between the last two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from quarterdeck.routing.filters.availability import left_out, refusal_of, takes_traffic
from quarterdeck.routing.filters.outliers import not_ejected, unwell
from quarterdeck.routing.filters.room import full, has_place
from quarterdeck.routing.replicas import (
    Filter,
    Memory,
    Picker,
    Refusal,
    ReplicaView,
    RouteRequest,
    Scorer,
)


@dataclass(frozen=True)
class WeightedScorer:
    """A scorer's name in explanations, and how much it counts."""

    name: str
    scorer: Scorer
    weight: float = 1.0


@dataclass(frozen=True)
class Candidate:
    """One replica in an explanation: its summed score with its parts, or why it was left out."""

    run_id: str
    score: float | None = None
    parts: dict[str, float] = field(default_factory=dict)
    left_out: str = ""


@dataclass(frozen=True)
class Choice:
    """What was chosen, and why."""

    policy: str
    chosen: ReplicaView | Refusal
    why: str
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class RoutingPolicy:
    """How the requests of one service find their replica.

    Only available replicas are ever considered; `filters` are preferences among them. Choosing
    has no effect: the caller says `sent` for each try that it really makes.
    """

    name: str
    scorers: tuple[WeightedScorer, ...]
    picker: Picker
    filters: tuple[Filter, ...] = (not_ejected, has_place)
    memories: tuple[Memory, ...] = ()

    def choose(
        self, request: RouteRequest, replicas: Sequence[ReplicaView], random: Random
    ) -> ReplicaView | Refusal:
        """The replica for a request, or why there is none."""
        if len(replicas) == 1:
            only = takes_traffic(request, replicas)
            return only[0] if only else refusal_of(request, replicas)
        kept = self._kept(request, replicas)
        if not kept:
            return refusal_of(request, replicas)
        if len(kept) == 1:
            return kept[0]
        if len(self.scorers) == 1:
            return self.picker(kept, self.scorers[0].scorer(request, kept).values, random)
        scores = [0.0] * len(kept)
        for one in self.scorers:
            for index, score in enumerate(one.scorer(request, kept).values):
                scores[index] += one.weight * score
        return self.picker(kept, scores, random)

    def explain(
        self, request: RouteRequest, replicas: Sequence[ReplicaView], random: Random
    ) -> Choice:
        """`choose`, with the scores of the replicas considered and the reasons of the others."""
        kept = self._kept(request, replicas)
        scored = {one.name: one.scorer(request, kept) for one in self.scorers} if kept else {}
        weights = {one.name: one.weight for one in self.scorers}
        candidates: list[Candidate] = []
        places = {replica.run_id: place for place, replica in enumerate(kept)}
        for replica in replicas:
            place = places.get(replica.run_id)
            if place is None:
                why = left_out(request, replica) or unwell(replica) or full(replica)
                candidates.append(Candidate(replica.run_id, left_out=why))
                continue
            parts = {name: found.values[place] for name, found in scored.items()}
            score = sum(weights[name] * part for name, part in parts.items())
            candidates.append(Candidate(replica.run_id, score, parts))
        if not kept:
            refusal = refusal_of(request, replicas)
            return Choice(self.name, refusal, refusal.message, tuple(candidates))
        scores = [sum(weights[name] * s.values[i] for name, s in scored.items()) for i in
                  range(len(kept))]  # fmt: skip
        chosen = kept[0] if len(kept) == 1 else self.picker(kept, scores, random)
        words = [found.why for found in scored.values() if found.why]
        why = "the only one to choose" if len(kept) == 1 else "; ".join(words)
        return Choice(self.name, chosen, why, tuple(candidates))

    def sent(self, request: RouteRequest, replica: ReplicaView) -> None:
        """A request goes to a replica now."""
        for memory in self.memories:
            memory.sent(request, replica)

    def keep(self, runs: frozenset[str]) -> None:
        """Forget what is remembered of other replicas than these."""
        for memory in self.memories:
            memory.keep(runs)

    def _kept(
        self, request: RouteRequest, replicas: Sequence[ReplicaView]
    ) -> Sequence[ReplicaView]:
        kept = takes_traffic(request, replicas)
        for narrow in self.filters:
            # A preference that leaves nobody is no reason to refuse.
            kept = narrow(request, kept) or kept
        return kept
