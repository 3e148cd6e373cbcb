"""Replicas that train by themselves and meet every so many steps.

LocalSGD (Stich 2019) takes the mean of the replicas' weights. DiLoCo (Douillard et al. 2023, arXiv
2311.08105, algorithm 1) takes the way from the mean back to where they last met as a gradient, and
steps on it with Nesterov's momentum. Adam's moments stay each replica's own; they are averaged
before a checkpoint alone, so that one set of them resumes on any layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from quarterdeck.specs.training import Sync
from quarterdeck_workers.training import zero_state
from quarterdeck_workers.training.model import named_parameters

OUTER_MOMENTUM = "outer_momentum"
"""The kind of state that a checkpoint holds beside weights and Adam's moments."""
LEARNING_RATE, MOMENTUM = 0.7, 0.9
"""DiLoCo's outer step (section 3.1)."""
BUCKET = 250_000_000
"""Elements averaged at once at most: a gigabyte of them."""


class Rounds:
    """This rank's view of the meetings. Every rank of a replica calls alike.

    `group` are the ranks that hold the same part of the model in all replicas, None where there
    is one replica; `optimizer` must shard nothing over them.
    """

    def __init__(
        self, sync: Sync, module: nn.Module, optimizer: Any, group: dist.ProcessGroup | None
    ) -> None:
        self._every, self._optimizer, self._group = sync.every, optimizer, group
        self._rate, self._decay = (
            default if given is None else given
            for given, default in (
                (sync.outer.learning_rate, LEARNING_RATE), (sync.outer.momentum, MOMENTUM),
            )
        )  # fmt: skip
        self._parameters = [p for p in named_parameters(module) if p.requires_grad]
        self._met: list[Tensor] = []
        self._momentum: dict[int, Tensor] = {}
        self._apart = False
        if sync.outer.method == "nesterov":
            self._met = [weights.clone() for weights in self._weights()]
            self._momentum = {id(p): torch.zeros_like(p, dtype=torch.float32)
                              for p in self._parameters}  # fmt: skip

    @property
    def state_bytes(self) -> int:
        """Bytes of the outer optimizer."""
        return 4 * sum(tensor.numel() for tensor in (*self._met, *self._momentum.values()))

    def ends_after(self, step: int) -> bool:
        """Whether `step` is the last of a round."""
        return step % self._every == 0

    def stepped(self) -> None:
        """Each replica has taken a step of its own."""
        self._apart = True

    @torch.no_grad()
    def meet(self) -> None:
        """Agree on weights; nothing where no step was taken since. Collective over the replicas."""
        if not self._apart:
            return
        weights = self._weights()
        for bucket in _buckets(weights):
            means = self._average([weights[number] for number in bucket])
            for number, mean in zip(bucket, means, strict=True):
                weights[number].copy_(self._outer_step(number, mean))
        for parameter in self._parameters:
            zero_state.follow_master(parameter)
        self._apart = False

    def _outer_step(self, number: int, mean: Tensor) -> Tensor:
        """The weights after a round that ended at `mean`; torch's SGD with `nesterov=True`."""
        if not self._met:
            return mean
        met = self._met[number]
        momentum = self._momentum[id(self._parameters[number])].view(-1)
        gradient = met - mean
        momentum.mul_(self._decay).add_(gradient)
        met.sub_(gradient.add_(momentum, alpha=self._decay), alpha=self._rate)
        return met

    @torch.no_grad()
    def average_moments(self) -> None:
        """Give every replica the mean of Adam's moments. Collective over the replicas."""
        moments = zero_state.whole_moments(self._parameters, self._optimizer)
        for bucket in _buckets(moments):
            means = self._average([moments[number] for number in bucket])
            for number, mean in zip(bucket, means, strict=True):
                moments[number].copy_(mean)

    def _weights(self) -> list[Tensor]:
        return [zero_state.whole_weights(parameter) for parameter in self._parameters]

    def _average(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        if self._group is None:
            return [tensor.clone() for tensor in tensors]
        flat = torch.cat([tensor.float() for tensor in tensors])
        dist.all_reduce(flat, group=self._group)
        flat.div_(dist.get_world_size(self._group))
        return flat.split([tensor.numel() for tensor in tensors])

    def checkpoint_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """What a checkpoint keeps of the outer optimizer, by kind, in the parameter's shape."""
        momentum = self._momentum.get(id(parameter))
        return {} if momentum is None else {OUTER_MOMENTUM: momentum}

    @torch.no_grad()
    def resumed(self, momentum: dict[int, Tensor]) -> None:
        """The weights have been set from a checkpoint, and this is its outer momentum by id of
        the parameter; empty when it had none."""
        for parameter, met, weights in zip(
            self._parameters, self._met, self._weights(), strict=False
        ):
            met.copy_(weights)
            if id(parameter) in momentum:
                self._momentum[id(parameter)].copy_(momentum[id(parameter)])


def _buckets(tensors: Sequence[Tensor]) -> list[list[int]]:
    """Numbers of tensors in order, cut where a bucket would hold too many elements."""
    buckets: list[list[int]] = []
    size = 0
    for number, tensor in enumerate(tensors):
        if not buckets or size + tensor.numel() > BUCKET:
            buckets.append([])
            size = 0
        buckets[-1].append(number)
        size += tensor.numel()
    return buckets
