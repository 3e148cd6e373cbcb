"""Where a rank stands in the grid of data × tensor × pipeline parallelism. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

from quarterdeck.specs.training import Parallelism


@dataclass(frozen=True)
class Layout:
    """Degrees of the three axes and one rank's coordinates.

    rank = (stage · data + replica) · tensor + slice: tensor groups are neighbours, so that they
    stay inside a host, and one host of `data · tensor` accelerators holds one pipeline stage.
    """

    data: int
    tensor: int
    pipeline: int
    rank: int

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.ranks:
            raise ValueError(
                f"rank {self.rank} is outside data {self.data} × tensor {self.tensor} × "
                f"pipeline {self.pipeline} = {self.ranks} ranks: start exactly that many"
            )

    @classmethod
    def of(cls, parallelism: Parallelism, rank: int) -> Layout:
        """The layout that a spec asks for, seen by `rank`. Raises ValueError outside it."""
        return cls(parallelism.data, parallelism.tensor, parallelism.pipeline, rank)

    @property
    def ranks(self) -> int:
        return self.data * self.tensor * self.pipeline

    @property
    def slice(self) -> int:
        """Position in the tensor group."""
        return self.rank % self.tensor

    @property
    def replica(self) -> int:
        """Position in the data-parallel group."""
        return self.rank // self.tensor % self.data

    @property
    def stage(self) -> int:
        """Position in the pipeline."""
        return self.rank // (self.tensor * self.data)

    @property
    def is_first_stage(self) -> bool:
        return self.stage == 0

    @property
    def is_last_stage(self) -> bool:
        return self.stage == self.pipeline - 1

    def rank_of(self, stage: int, replica: int, slice_: int) -> int:
        """The rank at the given coordinates."""
        return (stage * self.data + replica) * self.tensor + slice_

    def tensor_groups(self) -> list[list[int]]:
        """Every tensor group's ranks, in rank order."""
        return [
            [self.rank_of(stage, replica, index) for index in range(self.tensor)]
            for stage in range(self.pipeline)
            for replica in range(self.data)
        ]

    def data_groups(self) -> list[list[int]]:
        """Every data-parallel group's ranks, in the order of their first ranks."""
        return [
            [self.rank_of(stage, index, slice_) for index in range(self.data)]
            for stage in range(self.pipeline)
            for slice_ in range(self.tensor)
        ]
