"""Whether a device computes or waits for memory, and the bound that follows for inference."""

from __future__ import annotations


def ridge(peak: float, bandwidth: float) -> float:
    """FLOPs per byte above which a kernel is bound by arithmetic (Williams et al. 2009)."""
    return peak / bandwidth


def prefill_seconds(parameters: float, tokens: int, peak: float) -> float:
    """Least seconds to read a prompt: 2·N·T ÷ peak."""
    return 2 * parameters * tokens / peak


def decode_step_seconds(weight_bytes: float, cache_bytes: float, bandwidth: float) -> float:
    """Least seconds for one token of every sequence in the batch: weights and cache are read
    once, (weights + KV) ÷ bandwidth."""
    return (weight_bytes + cache_bytes) / bandwidth


def decode_compute_seconds(parameters: float, batch: int, peak: float) -> float:
    """Seconds of arithmetic for one token of each of `batch` sequences: 2·N·batch ÷ peak."""
    return 2 * parameters * batch / peak
