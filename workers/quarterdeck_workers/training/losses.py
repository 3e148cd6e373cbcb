"""The training loss, with a record by domain."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from quarterdeck_workers.parallel.cross_entropy import token_losses
from quarterdeck_workers.parallel.groups import TensorGroup


class Loss:
    """Mean negative log-likelihood per token in nats; remembers sums by domain until taken."""

    def __init__(self, domains: Sequence[str], group: TensorGroup) -> None:
        self._group = group
        self._sums = torch.zeros(2, len(domains), dtype=torch.float64)

    def __call__(self, logits: Tensor, labels: tuple[Tensor, Tensor]) -> Tensor:
        """`labels` are (targets [batch, sequence], domains [batch])."""
        targets, domains = labels
        by_sample = token_losses(logits, targets, self._group).mean(dim=1)
        where = domains.to("cpu")
        self._sums[0].index_add_(0, where, by_sample.detach().to("cpu", torch.float64))
        self._sums[1].index_add_(0, where, torch.ones(len(where), dtype=torch.float64))
        return by_sample.mean()

    def take(self) -> Tensor:
        """[sums of the samples' losses; numbers of samples] by domain since the last call."""
        taken, self._sums = self._sums, torch.zeros_like(self._sums)
        return taken
