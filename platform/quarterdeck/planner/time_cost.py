"""How long training takes and what it costs; how much of a device is used."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median


def training_seconds(
    tokens: float, flops_per_token: float, accelerators: int, peak: float, mfu: float
) -> float:
    """tokens · FLOPs ÷ (accelerators · peak FLOP/s · MFU)."""
    return tokens * flops_per_token / (accelerators * peak * mfu)


def seconds_at_rate(tokens: float, tokens_per_second: float) -> float:
    """Duration at a measured total rate."""
    return tokens / tokens_per_second


def model_flops_utilization(
    tokens_per_second: float, flops_per_token: float, accelerators: int, peak: float
) -> float:
    """MFU: model FLOP/s reached ÷ peak (Chowdhery et al. 2022, appendix B). With the rate of a
    finished run it calibrates the next plan."""
    return tokens_per_second * flops_per_token / (accelerators * peak)


def calibrated_mfu(finished: Sequence[float]) -> float | None:
    """The MFU to plan with after runs that reached these: their median, which a run with cold
    caches or a noisy neighbour does not move. None without runs."""
    return median(finished) if finished else None


def accelerator_hours(seconds: float, accelerators: int) -> float:
    """Accelerators × hours."""
    return seconds * accelerators / 3600


def cost(hours: float, price_per_hour: float) -> float:
    """Accelerator-hours × price, in the price's currency."""
    return hours * price_per_hour


def bubble_share(pipeline: int, micro_batches: int, interleave: int = 1) -> float:
    """Share of a step that a stage idles: (p−1)/(m+p−1), ÷ v with v interleaved chunks per
    stage (Narayanan et al. 2021)."""
    return (pipeline - 1) / (micro_batches + pipeline - 1) / interleave


def lifetime_flops(parameters: float, training_tokens: float, served_tokens: float) -> float:
    """FLOPs over a model's life: 6ND to train, 2N for each token served."""
    return 6 * parameters * training_tokens + 2 * parameters * served_tokens


def throughput(concurrency: float, latency: float) -> float:
    """Requests per second of a system that always holds `concurrency` requests, each taking
    `latency` seconds (Little's law)."""
    return concurrency / latency
