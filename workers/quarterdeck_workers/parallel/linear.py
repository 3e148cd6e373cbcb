"""Linear layers split over the tensor group (Shoeybi et al. 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from quarterdeck_workers.parallel.collectives import leave
from quarterdeck_workers.parallel.columns import column_parallel
from quarterdeck_workers.parallel.groups import TensorGroup
from quarterdeck_workers.parallel.sharding import Shard, mark


def _part(like: Tensor, dimension: int | None, group: TensorGroup, copies: int = 1) -> nn.Parameter:
    """An empty parameter for this rank's part of `like`."""
    shard = Shard(tuple(like.shape))
    if dimension is not None:
        shard = Shard(
            tuple(like.shape), dimension, group.index // copies, group.size // copies,
            copies, group.index % copies,
        )  # fmt: skip
    empty = torch.empty(shard.shape, dtype=like.dtype, device=like.device)
    return mark(nn.Parameter(empty, requires_grad=like.requires_grad), shard)


def check_divisible(size: int, group: TensorGroup, what: str) -> None:
    """Raises ValueError, naming the remedy, when the group cannot split `size` evenly."""
    if size % group.size:
        raise ValueError(
            f"tensor: {group.size} does not divide {what} {size}: choose a divisor of {size}"
        )


class ColumnParallelLinear(nn.Module):
    """y = x·Wᵀ + b with W's rows (output features) split: [.., in] → [.., out / size].

    Layers that share an input are applied together, by `columns.SharedInput`. With `copies` each
    part is held by so many neighbouring ranks.
    """

    def __init__(self, linear: nn.Linear, group: TensorGroup, copies: int = 1) -> None:
        super().__init__()
        check_divisible(linear.out_features * copies, group, "output features")
        self.group = group
        self.in_features = linear.in_features
        self.out_features = linear.out_features * copies // group.size
        self.weight = _part(linear.weight, 0, group, copies)
        self.bias = None if linear.bias is None else _part(linear.bias, 0, group, copies)

    def forward(self, value: Tensor) -> Tensor:
        return column_parallel(value, [(self.weight, self.bias)], self.group)[0]


class RowParallelLinear(nn.Module):
    """y = x·Wᵀ + b with W's columns (input features) split: [.., in / size] → [.., out]."""

    def __init__(self, linear: nn.Linear, group: TensorGroup) -> None:
        super().__init__()
        check_divisible(linear.in_features, group, "input features")
        self.group = group
        self.in_features = linear.in_features // group.size
        self.out_features = linear.out_features
        self.weight = _part(linear.weight, 1, group)
        self.bias = None if linear.bias is None else _part(linear.bias, None, group)

    def forward(self, value: Tensor) -> Tensor:
        total = leave(functional.linear(value, self.weight), self.group)
        return total if self.bias is None else total + self.bias


class VocabParallelEmbedding(nn.Module):
    """An embedding whose rows (tokens) are split; answers the whole hidden vector everywhere."""

    def __init__(self, embedding: nn.Embedding, group: TensorGroup) -> None:
        super().__init__()
        check_divisible(embedding.num_embeddings, group, "vocab_size")
        self.group = group
        self.num_embeddings = embedding.num_embeddings
        self.embedding_dim = embedding.embedding_dim
        self.weight = _part(embedding.weight, 0, group)

    def forward(self, tokens: Tensor) -> Tensor:
        rows = self.weight.shape[0]
        local = tokens - self.group.index * rows
        outside = (local < 0) | (local >= rows)
        found = functional.embedding(local.masked_fill(outside, 0), self.weight)
        return leave_whole(found.masked_fill(outside.unsqueeze(-1), 0.0), self.group)


def leave_whole(value: Tensor, group: TensorGroup) -> Tensor:
    """Add partial results, answering the whole sequence even under sequence parallelism."""
    return leave(value, TensorGroup(group.size, group.index, group.group))
