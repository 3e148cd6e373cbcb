"""Which part of a whole tensor a rank's parameter is."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

ATTRIBUTE = "quarterdeck_shard"


@dataclass(frozen=True)
class Shard:
    """One of `count` equal parts along `dimension` of a tensor of shape `full_shape`.

    `dimension` is None for a parameter that every rank of the tensor group holds whole.
    """

    full_shape: tuple[int, ...]
    dimension: int | None = None
    index: int = 0
    count: int = 1
    copies: int = 1
    """How many ranks of the tensor group hold this same part."""
    copy: int = 0
    """Which of them this rank is."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the part."""
        if self.dimension is None:
            return self.full_shape
        shape = list(self.full_shape)
        shape[self.dimension] //= self.count
        return tuple(shape)

    @property
    def start(self) -> int:
        """Where the part begins along `dimension`."""
        if self.dimension is None:
            return 0
        return self.index * (self.full_shape[self.dimension] // self.count)

    def take(self, full: Tensor) -> Tensor:
        """The part of a whole tensor. Raises ValueError when its shape is another."""
        if tuple(full.shape) != self.full_shape:
            raise ValueError(f"shape {tuple(full.shape)} is not the expected {self.full_shape}")
        if self.dimension is None:
            return full
        length = self.full_shape[self.dimension] // self.count
        return full.narrow(self.dimension, self.start, length)


def mark(parameter: nn.Parameter, shard: Shard) -> nn.Parameter:
    """Remember what the parameter is part of; DeepSpeed reads `model_parallel` so as to count
    split parameters of every rank, and whole or copied ones once, in the gradient norm."""
    setattr(parameter, ATTRIBUTE, shard)
    split = shard.dimension is not None and shard.copy == 0
    parameter.model_parallel = split  # type: ignore[attr-defined]
    return parameter


def shard_of(parameter: nn.Parameter) -> Shard:
    """What the parameter is part of; an unmarked one is whole."""
    shard = getattr(parameter, ATTRIBUTE, None)
    # ZeRO-3 leaves an empty tensor behind and keeps the shape in `ds_shape`.
    shape = tuple(getattr(parameter, "ds_shape", parameter.shape))
    return shard if isinstance(shard, Shard) else Shard(shape)
