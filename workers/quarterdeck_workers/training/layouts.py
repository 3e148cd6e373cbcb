"""Which layout an order asks for."""

from __future__ import annotations

from quarterdeck.specs.kinds import PretrainSpec
from quarterdeck.specs.training import Parallelism


def parallelism_of(spec: PretrainSpec, ranks: int) -> Parallelism:
    """The layout to run. Raises ValueError when it needs another number of ranks, or is still
    `auto` for more than one."""
    if isinstance(spec.parallelism, Parallelism):
        if spec.parallelism.ranks != ranks:
            raise ValueError(
                f"parallelism needs {spec.parallelism.ranks} ranks, but {ranks} were started"
            )
        return spec.parallelism
    if ranks == 1:
        return Parallelism()
    raise ValueError("parallelism: auto reached the trainer: the planner must choose before")
