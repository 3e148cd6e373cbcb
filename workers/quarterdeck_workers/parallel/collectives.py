"""Collectives of the tensor group with their derivatives.

The pairs are Megatron-LM's (Shoeybi et al. 2019; Korthikanti et al. 2022): `enter` and `leave`
stand around every split layer. Without sequence parallelism the forward of one is the backward
of the other: identity and all-reduce. With it they are all-gather and reduce-scatter along the
sequence (dimension 1 of [batch, sequence, hidden]). Sums of half-precision parts are taken in
fp32 and rounded once.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from quarterdeck_workers.parallel.groups import TensorGroup

SEQUENCE = 1
"""The dimension that holds the sequence."""


def sum_over(value: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """The sum over the group's ranks, as a new tensor, taken in fp32."""
    total = value.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    dist.all_reduce(total, group=group)
    return total.to(value.dtype)


def _gather(value: Tensor, group: TensorGroup, dimension: int) -> Tensor:
    value = value.contiguous()
    parts = [torch.empty_like(value) for _ in range(group.size)]
    dist.all_gather(parts, value, group=group.group)
    return torch.cat(parts, dim=dimension)


def _reduce_scatter(value: Tensor, group: TensorGroup, dimension: int) -> Tensor:
    pieces = [piece.float().contiguous() for piece in value.chunk(group.size, dim=dimension)]
    mine = torch.empty_like(pieces[group.index])
    dist.reduce_scatter(mine, pieces, group=group.group)
    return mine.to(value.dtype)


def split(value: Tensor, group: TensorGroup, dimension: int) -> Tensor:
    """This rank's part of a tensor that all ranks of the group hold whole.

    Raises ValueError when the dimension is not divisible by the group's size.
    """
    if value.shape[dimension] % group.size:
        raise ValueError(
            f"dimension {dimension} of {tuple(value.shape)} is not divisible by tensor: "
            f"{group.size}; choose a sequence_length that is"
        )
    return value.chunk(group.size, dim=dimension)[group.index].contiguous()


class _Copy(torch.autograd.Function):
    """Identity forward, all-reduce backward."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, group: TensorGroup) -> Tensor:
        ctx.group = group
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return sum_over(gradients[0], ctx.group.group), None


class _Reduce(torch.autograd.Function):
    """All-reduce forward, identity backward."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, group: TensorGroup) -> Tensor:
        return sum_over(value, group.group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class _GatherSequence(torch.autograd.Function):
    """All-gather along the sequence forward, reduce-scatter backward."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, group: TensorGroup) -> Tensor:
        ctx.group = group
        return _gather(value, group, SEQUENCE)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _reduce_scatter(gradients[0], ctx.group, SEQUENCE), None


class _ReduceScatterSequence(torch.autograd.Function):
    """Reduce-scatter along the sequence forward, all-gather backward."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, group: TensorGroup) -> Tensor:
        ctx.group = group
        return _reduce_scatter(value, group, SEQUENCE)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _gather(gradients[0], ctx.group, SEQUENCE), None


class _SplitSequence(torch.autograd.Function):
    """This rank's part of the sequence forward, all-gather backward."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, group: TensorGroup) -> Tensor:
        ctx.group = group
        return split(value, group, SEQUENCE)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _gather(gradients[0], ctx.group, SEQUENCE), None


def enter(value: Tensor, group: TensorGroup) -> Tensor:
    """Before a column-split layer: every rank needs the whole input."""
    if group.size == 1:
        return value
    function = _GatherSequence if group.sequence else _Copy
    result: Tensor = function.apply(value, group)
    return result


def leave(value: Tensor, group: TensorGroup) -> Tensor:
    """After a row-split layer: add the ranks' partial results."""
    if group.size == 1:
        return value
    function = _ReduceScatterSequence if group.sequence else _Reduce
    result: Tensor = function.apply(value, group)
    return result


def split_sequence(value: Tensor, group: TensorGroup) -> Tensor:
    """From a value that all ranks hold to this rank's part of its sequence."""
    if group.size == 1 or not group.sequence:
        return value
    result: Tensor = _SplitSequence.apply(value, group)
    return result
