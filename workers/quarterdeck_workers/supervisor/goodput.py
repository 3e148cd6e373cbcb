"""Rank-seconds in steps that were kept, of all rank-seconds held. Pure."""

from __future__ import annotations


class Goodput:
    """Productive time of a gang of `world_size` ranks.

    Ranks work in lock-step, so a step's cost is the mean of what its ranks reported times the
    world size; one reporting rank is enough. Steps after the last checkpoint stop counting
    when the run fails: the next attempt does them again.
    """

    def __init__(self, world_size: int) -> None:
        self._world_size = world_size
        self._steps: dict[int, tuple[float, int]] = {}
        self._settled = 0.0
        self._settled_step = -1

    def add(self, step: int, seconds: float) -> None:
        """One rank spent `seconds` in `step`."""
        if step <= self._settled_step or seconds <= 0:
            return
        total, count = self._steps.get(step, (0.0, 0))
        self._steps[step] = (total + seconds, count + 1)

    def checkpoint(self, step: int) -> None:
        """Steps up to `step` are kept whatever comes."""
        kept = [each for each in self._steps if each <= step]
        self._settled += sum(self._cost(each) for each in kept)
        for each in kept:
            del self._steps[each]
        self._settled_step = max(self._settled_step, step)

    def productive_seconds(self, *, lost: bool = False) -> float:
        """Rank-seconds in steps; `lost` leaves out those after the last checkpoint."""
        if lost:
            return self._settled
        return self._settled + sum(self._cost(step) for step in self._steps)

    def _cost(self, step: int) -> float:
        total, count = self._steps[step]
        return total / count * self._world_size
