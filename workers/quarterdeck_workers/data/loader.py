"""Batches of a mixture by global sample indices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from quarterdeck_workers.data.errors import DataProblem
from quarterdeck_workers.data.sampler import DataOrder, Domain
from quarterdeck_workers.data.shards import TokenShards


@dataclass(frozen=True)
class DomainSource:
    """One domain of a mixture: a folder of token shards (of one split) with weight and passes."""

    name: str
    folder: Path
    weight: float | None = None
    passes: float | None = None


@dataclass(frozen=True)
class Batch:
    """Sequences as int64 tensors: `inputs` and `targets` (the inputs moved by one) are
    [samples, sequence length], `domains` [samples]."""

    inputs: Tensor
    targets: Tensor
    domains: Tensor


class TokenLoader:
    """Reads any sample of a mixture.

    Window w of a domain is the tokens w·s … (w+1)·s, both ends included: sequences share one
    token, the target of one and the first input of the next. Raises DataProblem when shards are
    damaged or made by different tokenizers, ValueError as DataOrder does.
    """

    def __init__(self, sources: Sequence[DomainSource], *, sequence_length: int, seed: int) -> None:
        self.sequence_length = sequence_length
        self.shards = [TokenShards(source.folder) for source in sources]
        _check_same_tokenizer(sources, self.shards)
        self.order = DataOrder(
            [
                Domain(s.name, windows(len(shards), sequence_length), s.weight, s.passes)
                for s, shards in zip(sources, self.shards, strict=True)
            ],
            seed,
        )

    @property
    def vocab_size(self) -> int:
        """That of the tokenizer which made the shards."""
        return self.shards[0].index.vocab_size

    @property
    def tokens(self) -> int:
        """Tokens of all domains together, each counted once."""
        return sum(len(shards) for shards in self.shards)

    @property
    def domain_names(self) -> list[str]:
        return [domain.name for domain in self.order.domains]

    def batch(self, indices: Iterable[int]) -> Batch:
        """The samples with these global indices, in their order. Raises IndexError as
        `DataOrder.sample` does."""
        samples = [self.order.sample(index) for index in indices]
        length = self.sequence_length
        rows = np.empty((len(samples), length + 1), np.int64)
        for row, sample in zip(rows, samples, strict=True):
            row[:] = self.shards[sample.domain].read(sample.window * length, length + 1)
        tokens = torch.from_numpy(rows)
        return Batch(
            inputs=tokens[:, :-1].contiguous(),
            targets=tokens[:, 1:].contiguous(),
            domains=torch.tensor([sample.domain for sample in samples], dtype=torch.int64),
        )


def windows(tokens: int, sequence_length: int) -> int:
    """How many sequences with their targets `tokens` tokens give."""
    return max(0, (tokens - 1) // sequence_length)


def _check_same_tokenizer(sources: Sequence[DomainSource], shards: Sequence[TokenShards]) -> None:
    for source, own in zip(sources, shards, strict=True):
        if own.index.tokenizer_sha256 != shards[0].index.tokenizer_sha256:
            raise DataProblem(
                f"datasets {sources[0].name} and {source.name} were made by different tokenizers: "
                "tokenize both with one"
            )
