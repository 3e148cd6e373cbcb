"""Projections split by columns that share an input, with communication behind computation.

The backward pass is Megatron-LM's (Korthikanti et al. 2022; its
LinearWithGradAccumulationAndAsyncCommunication): the sum of the input's gradient over the tensor
group is started before the weights' gradients are computed, and waited for after them. Under
sequence parallelism a rank keeps its own part of the input alone, and gathers the rest again while
it computes the input's gradient. Projections of one input (query, key and value; gate and up) pay
for one collective together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from quarterdeck_workers.parallel.collectives import (
    SEQUENCE,
    start_gather,
    start_reduce_scatter,
    start_sum,
)
from quarterdeck_workers.parallel.groups import TensorGroup


class _Columns(torch.autograd.Function):
    """x to (x·W₁ᵀ + b₁, x·W₂ᵀ + b₂, …); parameters are W₁, b₁, W₂, b₂, …, biases may be None."""

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, group: TensorGroup, *parameters: Tensor | None
    ) -> tuple[Tensor, ...]:
        weights, biases = parameters[::2], parameters[1::2]
        ctx.group = group
        ctx.save_for_backward(value, *weights)
        whole = start_gather(value, group, SEQUENCE)() if group.sequence else value
        return tuple(
            functional.linear(whole, weight, bias)  # type: ignore[arg-type]
            for weight, bias in zip(weights, biases, strict=True)
        )

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        value, *weights = ctx.saved_tensors
        group, needed = ctx.group, ctx.needs_input_grad
        wanted = needed[2:]
        gather = None
        if group.sequence and any(wanted[::2]):
            gather = start_gather(value, group, SEQUENCE)
        finish = None
        if needed[0]:
            total = _input_gradient(gradients, weights)
            start = start_reduce_scatter if group.sequence else start_sum
            finish = start(total, group, SEQUENCE)
        whole = value if gather is None else gather()
        rows = whole.flatten(0, -2)
        result: list[Tensor | None] = []
        for number, gradient in enumerate(gradients):
            columns = gradient.flatten(0, -2)
            result.append(columns.t().mm(rows) if wanted[2 * number] else None)
            result.append(columns.sum(0) if wanted[2 * number + 1] else None)
        return (None if finish is None else finish(), None, *result)


def _input_gradient(gradients: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """Σ gᵢ·Wᵢ of this rank's columns, added from the last as torch's own engine would."""
    total: Tensor | None = None
    for gradient, weight in zip(reversed(gradients), reversed(weights), strict=True):
        part = gradient.flatten(0, -2).mm(weight)
        total = part if total is None else total.add_(part)
    assert total is not None
    return total.view(*gradients[0].shape[:-1], -1)


def column_parallel(
    value: Tensor,
    parameters: Sequence[tuple[Tensor, Tensor | None]],
    group: TensorGroup,
) -> tuple[Tensor, ...]:
    """[.., in] to a [.., out / size] for each (weight [out / size, in], bias) of this rank.

    Under sequence parallelism `value` is this rank's part of the sequence, the results are of the
    whole. In a group of one these are plain linear layers.
    """
    if group.size == 1:
        return tuple(functional.linear(value, weight, bias) for weight, bias in parameters)
    flat = [tensor for pair in parameters for tensor in pair]
    result: tuple[Tensor, ...] = _Columns.apply(value, group, *flat)
    return result


class SharedInput:
    """A block's way to apply projections, each split by columns, to one input."""

    def __init__(self, group: TensorGroup) -> None:
        self.group = group

    def __call__(self, value: Tensor, projections: Sequence[nn.Module]) -> tuple[Tensor, ...]:
        pairs: list[Any] = [(layer.weight, layer.bias) for layer in projections]
        return column_parallel(value, pairs, self.group)
