"""Metrics of a step: speed, utilisation and where memory goes."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from quarterdeck_workers.training.zero_state import masters, numel


def memory_metrics(
    module: nn.Module,
    optimizer: Any,
    *,
    data: int,
    zero: int,
    expected_activations: int,
    device: torch.device,
    outer: int = 0,
) -> dict[str, float]:
    """Bytes by part on the rank that holds most of each, measured after a step. Collective.

    Weights and optimizer state are counted from their storages; gradients, which ZeRO frees
    within the step, from their sizes (fp32, sharded by ZeRO-2 and 3). Activations are the
    measured peak above the rest on an accelerator; a CPU keeps no such record, so there they are
    what the planner expects. `outer` are bytes of an outer optimizer beside the engine's.
    """
    weights = _bytes([p.detach() for p in module.parameters() if p.numel()])
    base = getattr(optimizer, "optimizer", optimizer)
    own = {p.untyped_storage().data_ptr() for p in module.parameters() if p.numel()}
    separate = [
        master.detach() for master in masters(optimizer)
        if master.untyped_storage().data_ptr() not in own
    ]  # fmt: skip
    moments = [
        value for state in base.state.values() for value in state.values()
        if isinstance(value, Tensor) and value.numel() > 1
    ]  # fmt: skip
    state = _bytes(separate) + _bytes(moments) + outer
    trainable = sum(numel(p) for p in module.parameters() if p.requires_grad)
    gradient = 4 * trainable // (data if zero >= 2 else 1)
    activation = expected_activations
    if device.type == "cuda":
        activation = max(0, torch.cuda.max_memory_allocated(device) - weights - state - gradient)
    parts = torch.tensor([weights, state, gradient, activation], dtype=torch.float64).to(device)
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(parts, op=dist.ReduceOp.MAX)
    names = ("model", "optimizer", "gradient", "activation")
    return {f"memory/{name}": float(part) for name, part in zip(names, parts.cpu(), strict=True)}


def _bytes(tensors: Sequence[Tensor]) -> int:
    """Bytes of the distinct storages behind tensors (views of one buffer count once)."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


class StepClock:
    """Mean duration of the last steps, for the time to the end.

    A run's first step warms caches up: it counts only until a second one is known.
    """

    def __init__(self, window: int = 32) -> None:
        self._first: tuple[float, int] | None = None
        self._steps: deque[tuple[float, int]] = deque(maxlen=window)

    def add(self, seconds: float, samples: int) -> None:
        """A step over so many samples took so long."""
        if self._first is None:
            self._first = (seconds, samples)
        else:
            self._steps.append((seconds, samples))

    @property
    def mean(self) -> float:
        """Seconds per step; 0 before the first."""
        known = self._known()
        return sum(seconds for seconds, _ in known) / len(known) if known else 0.0

    def eta(self, samples_left: int) -> float:
        """Seconds until the end at the present speed; 0 before the first step."""
        known = self._known()
        samples = sum(samples for _, samples in known)
        return sum(seconds for seconds, _ in known) / samples * samples_left if samples else 0.0

    def _known(self) -> list[tuple[float, int]]:
        if self._steps:
            return list(self._steps)
        return [self._first] if self._first else []


def speed_metrics(
    *, tokens: int, seconds: float, ranks: int, flops_per_token: float, peak_flops: float | None
) -> dict[str, float]:
    """Tokens per second and, where the accelerator's peak is known, model FLOPs utilisation
    (Chowdhery et al. 2022): achieved model FLOP/s over peak, per accelerator."""
    per_second = tokens / seconds
    metrics = {
        "tokens_per_second": per_second,
        "tokens_per_second_per_accelerator": per_second / ranks,
        "flops_per_second": per_second * flops_per_token,
    }
    if peak_flops:
        metrics["mfu"] = per_second * flops_per_token / (ranks * peak_flops)
    return metrics


def loss_metrics(sums: Tensor, domains: Sequence[str]) -> dict[str, float]:
    """Mean loss over all samples, its perplexity, and `loss/<domain>` where several are mixed.

    `sums` are [sum of the samples' losses; number of samples] by domain, over all ranks.
    """
    total, count = float(sums[0].sum()), float(sums[1].sum())
    loss = total / count if count else math.nan
    metrics = {"loss": loss}
    if len(domains) > 1:
        for index, name in enumerate(domains):
            if sums[1, index] > 0:
                metrics[f"loss/{name}"] = float(sums[0, index] / sums[1, index])
    return metrics
