"""How often to write checkpoints."""

from __future__ import annotations

from math import sqrt


def optimal_interval(save_seconds: float, mean_time_to_failure: float) -> float:
    """Seconds of work between checkpoints: √(2 · T_save · MTTF) (Young 1974, Daly 2006).

    Raises ValueError unless both are positive.
    """
    if save_seconds <= 0 or mean_time_to_failure <= 0:
        raise ValueError(
            f"save_seconds {save_seconds} and mean_time_to_failure {mean_time_to_failure} "
            "must be positive: measure a save first"
        )
    return sqrt(2 * save_seconds * mean_time_to_failure)


def optimal_steps(save_seconds: float, mean_time_to_failure: float, step_seconds: float) -> int:
    """The interval in whole steps, at least 1.

    Raises ValueError unless every duration is positive.
    """
    if step_seconds <= 0:
        raise ValueError(f"step_seconds {step_seconds} must be positive: measure a step first")
    return max(1, round(optimal_interval(save_seconds, mean_time_to_failure) / step_seconds))


def gang_mean_time_to_failure(node_mean_time_to_failure: float, nodes: int) -> float:
    """A gang fails with its first node: independent failures divide the time by `nodes`."""
    return node_mean_time_to_failure / nodes


def lost_share(interval: float, save_seconds: float, mean_time_to_failure: float) -> float:
    """Share of time lost to saving and to repeating work since the last checkpoint."""
    return save_seconds / interval + interval / (2 * mean_time_to_failure)
