"""Which window of which domain a sample is: a pure function of (seed, global sample index).

Nothing depends on ranks, batch size or history, so a resume on any layout repeats and skips
nothing. Domains take turns by a periodic schedule that never strays from the weights by one
sample or more; within a domain each pass is a keyed permutation of all windows, computed in
constant memory.
"""

from __future__ import annotations

import hashlib
import heapq
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import lcm

PERIOD = 1 << 14
"""Longest schedule: weights that are no simple fractions are rounded to 1 / PERIOD."""
_ROUNDS = 6
_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Domain:
    """One part of a mixture. `windows` counts its training sequences; `weight` is a share of
    samples in any unit; `passes` bounds how often its data is seen (None: no bound)."""

    name: str
    windows: int
    weight: float | None = None
    passes: float | None = None


@dataclass(frozen=True)
class Sample:
    """Window `window` of domain number `domain`, seen for the `pass_number`th time (from 0)."""

    domain: int
    window: int
    pass_number: int


@dataclass(frozen=True)
class _Schedule:
    """A period of domain numbers, and where each domain stands in it."""

    order: tuple[int, ...]
    before: tuple[int, ...]
    """How often order[i] occurred earlier in the period."""
    places: dict[int, tuple[int, ...]]


@dataclass(frozen=True)
class _Phase:
    """From sample `start` on these domains take turns; `consumed` is what each had before."""

    start: int
    schedule: _Schedule
    consumed: tuple[int, ...]


class DataOrder:
    """The order of samples of a mixture.

    Weights are all given or all left out; left out, each domain counts by its windows times its
    passes, so that all end together. A domain that has used up its passes drops out and the
    others share its part. Raises ValueError naming the domain and the remedy.
    """

    def __init__(self, domains: Sequence[Domain], seed: int) -> None:
        _check(domains)
        self.domains = tuple(domains)
        self.seed = seed
        self._keys = [_key(seed, domain.name, number) for number, domain in enumerate(domains)]
        self._phases: list[_Phase] = []
        self.available: int | None = None
        """How many samples there are; None when a domain may be repeated without bound."""
        self._lay_out()
        self._starts = [phase.start for phase in self._phases]

    def _lay_out(self) -> None:
        weights = effective_weights(self.domains)
        limits = [
            None if d.passes is None else int(d.windows * Fraction(str(d.passes)))
            for d in self.domains
        ]
        consumed = [0] * len(self.domains)
        start = 0
        live = [n for n, limit in enumerate(limits) if limit is None or limit > 0]
        while live:
            schedule = make_schedule(tuple((n, weights[n]) for n in live))
            self._phases.append(_Phase(start, schedule, tuple(consumed)))
            length = len(schedule.order)
            ends: dict[int, int] = {}
            for n in live:
                limit = limits[n]
                if limit is not None:
                    places = schedule.places[n]
                    periods, rest = divmod(limit - consumed[n] - 1, len(places))
                    ends[n] = periods * length + places[rest] + 1
            if not ends:
                return
            span = min(ends.values())
            periods, rest = divmod(span, length)
            for n in live:
                places = schedule.places[n]
                consumed[n] += periods * len(places) + bisect_right(places, rest - 1)
            live = [n for n in live if limits[n] is None or consumed[n] < (limits[n] or 0)]
            start += span
        self.available = start

    def sample(self, index: int) -> Sample:
        """The sample with global index `index`, from 0. Raises IndexError beyond `available`."""
        if index < 0 or (self.available is not None and index >= self.available):
            raise IndexError(
                f"sample {index} is beyond the {self.available} samples that the domains' passes "
                "allow: train for fewer tokens or allow more passes"
            )
        phase = self._phases[bisect_right(self._starts, index) - 1]
        schedule = phase.schedule
        periods, place = divmod(index - phase.start, len(schedule.order))
        domain = schedule.order[place]
        count = phase.consumed[domain] + periods * len(schedule.places[domain])
        windows = self.domains[domain].windows
        pass_number, position = divmod(count + schedule.before[place], windows)
        window = permute(position, windows, self._keys[domain] ^ mix(pass_number))
        return Sample(domain, window, pass_number)


def effective_weights(domains: Sequence[Domain]) -> list[Fraction]:
    """Each domain's share of samples while all last; they add up to 1."""
    given = [domain.weight for domain in domains]
    exact = [
        Fraction(str(weight)) if weight is not None
        else domain.windows * Fraction(str(domain.passes or 1))
        for weight, domain in zip(given, domains, strict=True)
    ]  # fmt: skip
    total = sum(exact)
    return [value / total for value in exact]


@lru_cache(maxsize=64)
def make_schedule(weights: tuple[tuple[int, Fraction], ...]) -> _Schedule:
    """A period in which every prefix holds each domain its share of times, to less than one.

    The chairman assignment problem (Tijdeman 1980), solved as proportionate-fair scheduling on one
    machine (Baruah et al. 1996): among the domains that would not get a whole turn too many, the
    one whose next turn is due first.
    """
    names = [name for name, _ in weights]
    counts = _whole_counts([weight for _, weight in weights])
    period = sum(counts)
    turns = [0] * len(counts)
    # Turn t of a domain with c of P turns may be at step ⌊t·P/c⌋ at the earliest and is due before
    # step ⌈(t+1)·P/c⌉. Domains wait by their beginnings and compete by their ends.
    waiting = [(0, number) for number in range(len(counts))]
    ready: list[tuple[int, int]] = []
    order: list[int] = []
    before: list[int] = []
    places: dict[int, list[int]] = {name: [] for name in names}
    for step in range(period):
        while waiting and waiting[0][0] <= step:
            _, number = heapq.heappop(waiting)
            due = -(-(turns[number] + 1) * period // counts[number])
            heapq.heappush(ready, (due, number))
        _, number = heapq.heappop(ready)
        order.append(names[number])
        before.append(turns[number])
        places[names[number]].append(step)
        turns[number] += 1
        heapq.heappush(waiting, (turns[number] * period // counts[number], number))
    return _Schedule(
        tuple(order), tuple(before), {name: tuple(where) for name, where in places.items()}
    )


def _whole_counts(weights: Sequence[Fraction]) -> list[int]:
    """Turns of each domain in a period: exact where the period stays short, else rounded by
    largest remainders with at least one each."""
    total = sum(weights)
    shares = [weight / total for weight in weights]
    common = lcm(*(share.denominator for share in shares))
    if common <= PERIOD:
        return [int(share * common) for share in shares]
    counts = [max(1, int(share * PERIOD)) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda n: (counts[n] - shares[n] * PERIOD, n))
    missing = PERIOD - sum(counts)
    for n in by_remainder[: max(0, missing)]:
        counts[n] += 1
    return counts


def permute(position: int, size: int, key: int) -> int:
    """Where a keyed permutation of range(size) takes `position`, in constant memory.

    A Feistel network over the next even power of two, walked until it falls inside (Black and
    Rogaway 2002). Raises IndexError outside the range.
    """
    if not 0 <= position < size:
        raise IndexError(f"position {position} is outside 0 … {size - 1}")
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    value = position
    while True:
        left, right = value >> half, value & mask
        for round_number in range(_ROUNDS):
            left, right = right, left ^ (mix(key + (right << 8) + round_number) & mask)
        value = (left << half) | right
        if value < size:
            return value


def mix(value: int) -> int:
    """64 well-stirred bits of an integer (the finaliser of SplitMix64, Steele et al. 2014)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def _key(seed: int, name: str, number: int) -> int:
    digest = hashlib.sha256(f"{seed}:{number}:{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def _check(domains: Sequence[Domain]) -> None:
    if not domains:
        raise ValueError("datasets is empty: name at least one dataset")
    for domain in domains:
        if domain.windows < 1:
            raise ValueError(
                f"dataset {domain.name} has fewer tokens than one sequence: use a smaller "
                "sequence_length or more data"
            )
    weighted = [domain.name for domain in domains if domain.weight is not None]
    if weighted and len(weighted) != len(domains):
        without = [domain.name for domain in domains if domain.weight is None]
        raise ValueError(
            f"datasets {', '.join(without)} have no weight while {', '.join(weighted)} have: "
            "give a weight to all or to none"
        )
