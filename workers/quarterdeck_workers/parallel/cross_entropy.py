"""Cross entropy over a vocabulary that is split over the tensor group.

No rank ever holds all logits: only the maximum, the sum of exponentials and the target's logit
are exchanged, three numbers per token (Shoeybi et al. 2019, section 3). Computed in fp32.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from quarterdeck_workers.parallel.groups import TensorGroup


class _VocabParallelCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, group: TensorGroup) -> Tensor:
        values = logits.float()
        maximum = values.amax(dim=-1)
        dist.all_reduce(maximum, op=dist.ReduceOp.MAX, group=group.group)
        exponentials = (values - maximum.unsqueeze(-1)).exp_()
        columns = logits.shape[-1]
        local = targets - group.index * columns
        outside = (local < 0) | (local >= columns)
        local = local.masked_fill(outside, 0)
        target = values.gather(-1, local.unsqueeze(-1)).squeeze(-1) - maximum
        sums = torch.stack([exponentials.sum(dim=-1), target.masked_fill(outside, 0.0)])
        dist.all_reduce(sums, group=group.group)
        ctx.save_for_backward(exponentials.div_(sums[0].unsqueeze(-1)), local, outside)
        ctx.dtype = logits.dtype
        return sums[0].log() - sums[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        probabilities, local, outside = ctx.saved_tensors
        result = probabilities.clone()
        hit = torch.where(outside, 0.0, 1.0).to(result.dtype).unsqueeze(-1)
        result.scatter_add_(-1, local.unsqueeze(-1), -hit)
        return result.mul_(gradients[0].unsqueeze(-1)).to(ctx.dtype), None, None


def token_losses(logits: Tensor, targets: Tensor, group: TensorGroup) -> Tensor:
    """Negative log-likelihood of every token in nats, [batch, sequence].

    `logits` are [batch, sequence, vocabulary / group size], `targets` [batch, sequence].
    """
    if group.size == 1:
        flat = functional.cross_entropy(
            logits.float().flatten(0, 1), targets.flatten(), reduction="none"
        )
        return flat.view(targets.shape)
    result: Tensor = _VocabParallelCrossEntropy.apply(logits, targets, group)
    return result
