"""How large a model and how much data a budget buys, and the loss they predict."""

from __future__ import annotations

from math import pow, sqrt


def chinchilla_optimal(flops: float) -> tuple[float, float]:
    """(parameters, tokens) that spend `flops` best: N = √(C/120), D = 20N, from C = 6ND
    (Hoffmann et al. 2022, approach 1's ratio)."""
    parameters = sqrt(flops / 120)
    return parameters, 20 * parameters


def training_flops(parameters: float, tokens: float) -> float:
    """C = 6ND."""
    return 6 * parameters * tokens


def loss_from_parameters(parameters: float) -> float:
    """Nats per token with enough data: (8.8e13/N)^0.076 (Kaplan et al. 2020, equation 1.1)."""
    return pow(8.8e13 / parameters, 0.076)


def loss_from_tokens(tokens: float) -> float:
    """Nats per token with enough parameters: (5.4e13/D)^0.095 (Kaplan et al. 2020, 1.2)."""
    return pow(5.4e13 / tokens, 0.095)
