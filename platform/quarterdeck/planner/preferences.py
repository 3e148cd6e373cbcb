"""The arithmetic of learning from preferences."""

from __future__ import annotations

from math import comb, exp, log1p


def pairwise_loss(difference: float) -> float:
    """Nats that a reward model loses on one comparison, −ln σ(chosen − rejected) (Ouyang et al.
    2022, equation 1), in a form that does not overflow."""
    return max(0.0, -difference) + log1p(exp(-abs(difference)))


def comparisons(answers: int) -> int:
    """Pairs that ranking `answers` answers yields: C(n, 2)."""
    return comb(answers, 2)
