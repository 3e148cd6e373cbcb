"""What all ranks must agree on after a step, in one small all-reduce."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from quarterdeck_workers.rank.context import StopRequest


@dataclass(frozen=True)
class Agreement:
    """`losses` are [sums; numbers of samples] by domain over all ranks (float64)."""

    stop: bool
    checkpoint_before_stop: bool
    step_seconds: float
    """Rank 0's clock, so that all ranks decide alike."""
    losses: Tensor


def agree(
    request: StopRequest | None,
    step_seconds: float,
    losses: Tensor,
    *,
    rank: int,
    counts_losses: bool,
    device: torch.device,
) -> Agreement:
    """Put every rank's view together. Collective.

    A stop counts once any rank has heard of it, since they hear at different moments; likewise
    its wish for a checkpoint. `counts_losses` is True on one rank for each sample: slice 0 of
    the last stage.
    """
    seen = torch.tensor(
        [
            float(request is not None),
            float(request is not None and request.checkpoint),
            step_seconds if rank == 0 else 0.0,
        ],
        dtype=torch.float64,
    )
    own = losses if counts_losses else torch.zeros_like(losses)
    together = torch.cat([seen, own.flatten()]).to(device)
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(together)
    together = together.cpu()
    return Agreement(
        stop=bool(together[0] > 0),
        checkpoint_before_stop=bool(together[1] > 0),
        step_seconds=float(together[2]),
        losses=together[3:].view_as(losses),
    )
