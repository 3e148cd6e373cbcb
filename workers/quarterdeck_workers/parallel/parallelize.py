"""Apply tensor and sequence parallelism to plain modules, from outside.

A block's attention is known by its `q`, `k`, `v` and `o` projections, its feed-forward block by
`up` and `down` (and `gate`). Entering projections are split by columns, leaving ones by rows;
the collectives stand at the doors of the two blocks (a block's `project`, and the projection that
leaves), so what lies between them stays as plain as the model's author wrote it.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from quarterdeck_workers.parallel.collectives import sum_over
from quarterdeck_workers.parallel.columns import SharedInput
from quarterdeck_workers.parallel.groups import TensorGroup
from quarterdeck_workers.parallel.linear import (
    ColumnParallelLinear,
    RowParallelLinear,
    VocabParallelEmbedding,
    check_divisible,
)
from quarterdeck_workers.parallel.sharding import shard_of


def parallelize_block(block: nn.Module, group: TensorGroup) -> nn.Module:
    """Split a decoder layer's projections. Raises ValueError where heads or widths do not divide.

    With sequence parallelism its input and output are [batch, sequence / size, hidden], and
    `sum_partial_gradients` is still to be applied, once the parameters are in memory.
    """
    if group.size == 1:
        return block
    for module in list(block.modules()):
        if all(hasattr(module, name) for name in ("q", "k", "v", "o")):
            _split_attention(module, group)
        elif hasattr(module, "up") and hasattr(module, "down"):
            _split_feed_forward(module, group)
    return block


def _split_attention(attention: Any, group: TensorGroup) -> None:
    size = attention.head_size
    check_divisible(attention.q.out_features // size, group, "num_attention_heads")
    copies = key_value_copies(attention.k.out_features // size, group.size)
    attention.q = ColumnParallelLinear(attention.q, group)
    for name in ("k", "v"):
        setattr(attention, name, ColumnParallelLinear(getattr(attention, name), group, copies))
    attention.o = RowParallelLinear(attention.o, group)
    attention.project = SharedInput(group)


def key_value_copies(heads: int, tensor: int) -> int:
    """How many tensor ranks hold each key/value head: 1, or more where there are fewer heads
    than ranks. Raises ValueError when neither number divides the other."""
    if heads % tensor == 0:
        return 1
    if tensor % heads:
        raise ValueError(
            f"tensor: {tensor} neither divides num_key_value_heads {heads} nor is a multiple of "
            f"it: choose a divisor or a multiple of {heads}"
        )
    return tensor // heads


def _split_feed_forward(feed_forward: Any, group: TensorGroup) -> None:
    check_divisible(feed_forward.up.out_features, group, "intermediate_size")
    for name in ("gate", "up"):
        if getattr(feed_forward, name, None) is not None:
            setattr(feed_forward, name, ColumnParallelLinear(getattr(feed_forward, name), group))
    feed_forward.down = RowParallelLinear(feed_forward.down, group)
    feed_forward.project = SharedInput(group)


def split_embedding(embedding: nn.Embedding, group: TensorGroup) -> nn.Module:
    """The token embedding with its rows split over the group."""
    return embedding if group.size == 1 else VocabParallelEmbedding(embedding, group)


def split_head(head: nn.Linear, group: TensorGroup) -> nn.Module:
    """The output projection with its rows (the vocabulary) split."""
    return head if group.size == 1 else ColumnParallelLinear(head, group)


def sum_partial_gradients(module: nn.Module, group: TensorGroup) -> None:
    """Add up, over the ranks that hold the same parameter, gradients of which each sees a part.

    Under sequence parallelism these are the whole parameters, whose ranks see a part of the
    sequence each; and always copied key/value heads, whose ranks see a part of the queries each.
    Apply once the parameters are in memory.
    """
    if group.size == 1:
        return
    for parameter in module.parameters():
        if not parameter.requires_grad:
            continue
        shard = shard_of(parameter)
        if shard.copies > 1:
            parameter.register_hook(lambda gradient: sum_over(gradient, group.copies))
        elif shard.dimension is None and group.sequence:
            parameter.register_hook(lambda gradient: sum_over(gradient, group.group))
