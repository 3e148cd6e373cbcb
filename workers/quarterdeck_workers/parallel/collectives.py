"""Collectives of the tensor group with their derivatives.

The pairs are Megatron-LM's (Shoeybi et al. 2019; Korthikanti et al. 2022): `columns` and `leave`
stand around every split layer. Without sequence parallelism the forward of one is the backward
of the other: identity and all-reduce. With it they are all-gather and reduce-scatter along the
sequence (dimension 1 of [batch, sequence, hidden]). Sums of half-precision parts are taken in
fp32 and rounded once.

What `start_…` answers waits for the collective and gives its result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from quarterdeck_workers.parallel.groups import TensorGroup

SEQUENCE = 1
"""The dimension that holds the sequence."""


Finish = Callable[[], Tensor]


def sum_over(value: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """The sum over the group's ranks, as a new tensor, taken in fp32."""
    total = value.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    dist.all_reduce(total, group=group)
    return total.to(value.dtype)


def start_sum(value: Tensor, group: TensorGroup, _dimension: int | None = None) -> Finish:
    """Add up over the tensor group, in fp32; `value` itself may be overwritten."""
    total = value.to(torch.float32, memory_format=torch.contiguous_format)
    work = dist.all_reduce(total, group=group.group, async_op=True)

    def finish() -> Tensor:
        work.wait()
        return total.to(value.dtype)

    return finish


def start_gather(value: Tensor, group: TensorGroup, dimension: int) -> Finish:
    """Put the ranks' parts together along `dimension`."""
    value = value.contiguous()
    parts = [torch.empty_like(value) for _ in range(group.size)]
    work = dist.all_gather(parts, value, group=group.group, async_op=True)

    def finish() -> Tensor:
        work.wait()
        return torch.cat(parts, dim=dimension)

    return finish


def start_reduce_scatter(value: Tensor, group: TensorGroup, dimension: int) -> Finish:
    """Add up over the tensor group, in fp32, and keep this rank's part along `dimension`."""
    pieces = [piece.float().contiguous() for piece in value.chunk(group.size, dim=dimension)]
    mine = torch.empty_like(pieces[group.index])
    work = dist.reduce_scatter(mine, pieces, group=group.group, async_op=True)

    def finish() -> Tensor:
        work.wait()
        return mine.to(value.dtype)

    return finish


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


class _Reduce(torch.autograd.Function):
    """All-reduce forward, identity backward."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, group: TensorGroup) -> Tensor:
        return sum_over(value, group.group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class _ReduceScatterSequence(torch.autograd.Function):
    """Reduce-scatter along the sequence forward, all-gather backward."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, group: TensorGroup) -> Tensor:
        ctx.group = group
        return start_reduce_scatter(value, group, SEQUENCE)()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return start_gather(gradients[0], ctx.group, SEQUENCE)(), None


class _SplitSequence(torch.autograd.Function):
    """This rank's part of the sequence forward, all-gather backward."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, group: TensorGroup) -> Tensor:
        ctx.group = group
        return split(value, group, SEQUENCE)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return start_gather(gradients[0], ctx.group, SEQUENCE)(), None


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
