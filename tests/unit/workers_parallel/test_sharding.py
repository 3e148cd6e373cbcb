"""Parts of tensors, and what cannot be split."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from quarterdeck.specs.architecture import Architecture
from quarterdeck_workers.models.decoder import DecoderLayer
from quarterdeck_workers.parallel.groups import TensorGroup
from quarterdeck_workers.parallel.linear import (
    ColumnParallelLinear,
    RowParallelLinear,
    VocabParallelEmbedding,
)
from quarterdeck_workers.parallel.parallelize import parallelize_block
from quarterdeck_workers.parallel.sharding import Shard, shard_of


def test_parts_put_together_are_the_whole() -> None:
    whole = torch.arange(24.0).view(4, 6)
    for dimension in (0, 1):
        parts = [Shard((4, 6), dimension, index, 2) for index in range(2)]
        assert torch.equal(torch.cat([p.take(whole) for p in parts], dim=dimension), whole)
        assert all(p.take(whole).shape == p.shape for p in parts)
    with pytest.raises(ValueError, match="not the expected"):
        Shard((4, 6)).take(whole.t())


def test_split_layers_know_what_they_are_part_of() -> None:
    group = TensorGroup(size=2, index=1)
    column = ColumnParallelLinear(nn.Linear(6, 8), group)
    assert shard_of(column.weight) == Shard((8, 6), 0, 1, 2)
    assert shard_of(column.bias) == Shard((8,), 0, 1, 2)
    row = RowParallelLinear(nn.Linear(6, 8), group)
    assert shard_of(row.weight) == Shard((8, 6), 1, 1, 2)
    assert shard_of(row.bias) == Shard((8,))
    assert not row.bias.model_parallel
    assert shard_of(VocabParallelEmbedding(nn.Embedding(10, 4), group).weight).start == 5


def test_few_key_value_heads_are_copied() -> None:
    architecture = Architecture.model_validate(
        {
            "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 4, "num_key_value_heads": 2,
        }
    )  # fmt: skip
    shards = []
    for index in range(4):
        layer = parallelize_block(DecoderLayer(architecture), TensorGroup(size=4, index=index))
        weights = dict(layer.named_parameters())
        assert shard_of(weights["attention.q.weight"]).shape == (8, 32)
        shards.append(weights["attention.k.weight"])
    assert [(shard_of(w).start, shard_of(w).copy) for w in shards] == [
        (0, 0), (0, 1), (8, 0), (8, 1),
    ]  # fmt: skip
    assert [w.model_parallel for w in shards] == [True, False, True, False]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_attention_heads": 3}, "tensor: 2 does not divide num_attention_heads 3"),
        ({"num_attention_heads": 6, "num_key_value_heads": 3}, "neither divides num_key_value"),
        ({"intermediate_size": 7}, "tensor: 2 does not divide intermediate_size 7"),
    ],
)
def test_what_cannot_be_split_is_named(fields: dict[str, int], message: str) -> None:
    architecture = Architecture.model_validate(
        {
            "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 4, **fields,
        }
    )  # fmt: skip
    with pytest.raises(ValueError, match=message):
        parallelize_block(DecoderLayer(architecture), TensorGroup(size=2))
