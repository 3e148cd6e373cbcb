"""Where the beginning of the prompt is likely cached.

A radix tree for each replica holds the prompts that this gateway sent to it, bounded like the
cache that it stands for. `CachedShare` is the plain score, matched/length. `CacheAware` is
SGLang's rule:

- the loads are out of balance (most − fewest > `imbalance` and most > 1.5 × fewest): least load;
- else the longest match, if it covers more than `threshold` of the prompt;
- else the prompt is cold and goes by consistent hash with bounded loads over its opening (up to
  the first user message), so that all gateways, which share no state, send all turns of a
  conversation to the same replica.

Two things differ from SGLang's. A match that ends within the opening (a system prompt, a
document), and any of a prompt without turns, may be common to many conversations: it counts only
for replicas with room under the load bound, else the first to see a system prompt would draw all
conversations; and among those that have nearly all of it the hash decides, so that copies agree
once the prompt is known everywhere. It is measured against the opening, not the whole, so that
all turns have the same answer. Between equal matches beyond it the lesser load decides.
Source: SGLang router, `cache_aware` policy; Preble (2024) for weighing load against reuse.
"""

from __future__ import annotations

from collections.abc import Sequence

from quarterdeck.routing.radix_tree import RadixTree
from quarterdeck.routing.replicas import ReplicaView, RouteRequest, Scored
from quarterdeck.routing.scorers.consistent_hash import by_hash, has_room
from quarterdeck.routing.scorers.least_requests import least_requests

_UNBALANCED_RATIO = 1.5
_NEARLY = 0.9
_TIE = 1e-5  # less than one character of the longest prompt that is looked at


class PrefixTrees:
    """What was sent to each replica."""

    def __init__(self) -> None:
        self._trees: dict[str, RadixTree] = {}

    def matches(self, prompt: str, replicas: Sequence[ReplicaView]) -> list[int]:
        """Characters of the prompt's beginning that each replica has seen."""
        trees = [self._trees.get(replica.run_id) for replica in replicas]
        return [tree.match(prompt) if tree else 0 for tree in trees]

    def sent(self, request: RouteRequest, replica: ReplicaView) -> None:
        """The replica will have the prompt in its cache."""
        if request.prompt:
            self._trees.setdefault(replica.run_id, RadixTree()).insert(request.prompt)

    def keep(self, runs: frozenset[str]) -> None:
        """Forget the other replicas."""
        self._trees = {run: tree for run, tree in self._trees.items() if run in runs}


class CachedShare:
    """matched/length, 0 for a request without a prompt."""

    def __init__(self, trees: PrefixTrees) -> None:
        self._trees = trees

    def __call__(self, request: RouteRequest, replicas: Sequence[ReplicaView]) -> Scored:
        length = len(request.prompt)
        if not length:
            return Scored([0.0] * len(replicas))
        shares = [matched / length for matched in self._trees.matches(request.prompt, replicas)]
        return Scored(shares, f"up to {max(shares):.0%} of the prompt cached")


class CacheAware:
    """The rule at the head of this file."""

    def __init__(
        self, trees: PrefixTrees, *, threshold: float, imbalance: int, load_bound: float
    ) -> None:
        self._trees = trees
        self._threshold = threshold
        self._imbalance = imbalance
        self._load_bound = load_bound

    def __call__(self, request: RouteRequest, replicas: Sequence[ReplicaView]) -> Scored:
        loads = [replica.in_flight for replica in replicas]
        most, fewest = max(loads), min(loads)
        free = least_requests(request, replicas).values
        if not request.prompt:
            return Scored(free, "no prompt: fewest in flight")
        if most - fewest > self._imbalance and most > _UNBALANCED_RATIO * fewest:
            return Scored(free, f"loads of {fewest} to {most} are out of balance: least load")
        length = len(request.prompt)
        matches = self._trees.matches(request.prompt, replicas)
        own = [
            matched / length + _TIE * lightness
            if matched > request.own_after and matched > self._threshold * length
            else 0.0
            for matched, lightness in zip(matches, free, strict=True)
        ]
        if any(own):
            return Scored(own, f"{max(own):.0%} of the prompt is cached there")
        key = request.opening or request.prompt
        room = has_room(replicas, self._load_bound)
        fitting = [matched if fits else 0 for matched, fits in zip(matches, room, strict=True)]
        if max(fitting) > self._threshold * len(key):
            enough = _NEARLY * max(fitting)
            scores = [
                score if matched >= enough else 0.0
                for matched, score in zip(
                    fitting, by_hash(key, replicas, self._load_bound), strict=True
                )
            ]
            return Scored(scores, f"{max(fitting) / length:.0%} of the prompt, a part that others "
                          "share, is cached there")  # fmt: skip
        scores = by_hash(key, replicas, self._load_bound)
        return Scored(scores, "nothing cached: by hash of the conversation's opening")
