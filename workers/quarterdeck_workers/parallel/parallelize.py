"""Apply tensor and sequence parallelism to plain modules, from outside.

A block's attention is known by its `q`, `k`, `v` and `o` projections, its feed-forward block by
`up` and `down` (and `gate`). Entering projections are split by columns, leaving ones by rows;
the collectives stand at the doors of the two blocks, so what lies between them stays as plain as
the model's author wrote it.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from quarterdeck_workers.parallel.collectives import enter, sum_gradient
from quarterdeck_workers.parallel.groups import TensorGroup
from quarterdeck_workers.parallel.linear import (
    ColumnParallelLinear,
    RowParallelLinear,
    VocabParallelEmbedding,
    check_divisible,
)
from quarterdeck_workers.parallel.sharding import shard_of


def _enter_first(group: TensorGroup) -> Any:
    def hook(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return (enter(arguments[0], group), *arguments[1:])

    return hook


def parallelize_block(block: nn.Module, group: TensorGroup) -> nn.Module:
    """Split a decoder layer's projections. Raises ValueError where heads or widths do not divide.

    With sequence parallelism its input and output are [batch, sequence / size, hidden], and
    `sum_whole_gradients` is still to be applied, once the parameters are in memory.
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
    check_divisible(attention.k.out_features // size, group, "num_key_value_heads")
    for name in ("q", "k", "v"):
        setattr(attention, name, ColumnParallelLinear(getattr(attention, name), group))
    attention.o = RowParallelLinear(attention.o, group)
    attention.register_forward_pre_hook(_enter_first(group))


def _split_feed_forward(feed_forward: Any, group: TensorGroup) -> None:
    check_divisible(feed_forward.up.out_features, group, "intermediate_size")
    for name in ("gate", "up"):
        if getattr(feed_forward, name, None) is not None:
            setattr(feed_forward, name, ColumnParallelLinear(getattr(feed_forward, name), group))
    feed_forward.down = RowParallelLinear(feed_forward.down, group)
    feed_forward.register_forward_pre_hook(_enter_first(group))


def split_embedding(embedding: nn.Embedding, group: TensorGroup) -> nn.Module:
    """The token embedding with its rows split over the group."""
    return embedding if group.size == 1 else VocabParallelEmbedding(embedding, group)


def split_head(head: nn.Linear, group: TensorGroup) -> nn.Module:
    """The output projection with its rows (the vocabulary) split."""
    return head if group.size == 1 else ColumnParallelLinear(head, group)


def sum_whole_gradients(module: nn.Module, group: TensorGroup) -> None:
    """Under sequence parallelism a parameter that each rank holds whole sees a part of the
    sequence only: add its gradients up over the group."""
    if group.size == 1 or not group.sequence:
        return
    for parameter in module.parameters():
        if shard_of(parameter).dimension is None and parameter.requires_grad:
            parameter.register_hook(lambda gradient: sum_gradient(gradient, group))
