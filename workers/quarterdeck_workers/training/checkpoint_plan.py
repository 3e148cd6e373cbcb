"""When to write checkpoints: every so many steps, or as often as pays (Young/Daly)."""

from __future__ import annotations

from quarterdeck.planner.checkpointing import optimal_steps
from quarterdeck.specs.common import Checkpoints

DEFAULT_MEAN_TIME_TO_FAILURE = 24 * 3600.0
"""Seconds, for `auto` on a cluster that has not failed yet."""
FIRST_AUTO_STEP = 10
"""`auto` saves here first: then it knows how long a save and a step take."""


class CheckpointPlan:
    """Says after each step whether to save. Every rank gets the same answers from the same
    observations, so observations must be agreed on (rank 0's) before they are recorded."""

    def __init__(self, spec: Checkpoints, mean_time_to_failure: float | None, start: int) -> None:
        self._every = spec.every
        self._mean = mean_time_to_failure or DEFAULT_MEAN_TIME_TO_FAILURE
        self._last = start
        self._interval = FIRST_AUTO_STEP if spec.every == "auto" else spec.every

    @property
    def interval(self) -> int:
        """Steps between saves, as known now."""
        return self._interval

    def due(self, step: int) -> bool:
        """Whether to save after `step`."""
        if self._every != "auto":
            return step % self._interval == 0
        return step - self._last >= self._interval

    def saved(self, step: int, *, save_seconds: float, step_seconds: float) -> None:
        """A save after `step` was tried and took so long (also a failed one counts)."""
        self._last = step
        if self._every == "auto" and save_seconds > 0 and step_seconds > 0:
            self._interval = optimal_steps(save_seconds, self._mean, step_seconds)
