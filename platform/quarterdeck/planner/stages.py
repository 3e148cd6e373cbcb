"""How layers are dealt out to pipeline stages: contiguous, balanced by cost, uneven if need be."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from math import inf

from quarterdeck.planner.flops import head_flops_per_token, layer_flops_per_token
from quarterdeck.planner.parameters import per_layer
from quarterdeck.specs.architecture import Architecture


def partition_layers(costs: Sequence[float], stages: int) -> list[int]:
    """Boundaries [0, …, len(costs)] of `stages` contiguous, non-empty groups.

    Stage i holds layers boundaries[i] up to boundaries[i + 1]. The largest group's cost is the
    least possible; among such divisions the most even one (least sum of squares) is taken, and
    then the one whose later stages are shorter: earlier stages hold more micro-batches in
    flight, but the last one also computes the loss.

    Raises ValueError when there are fewer layers than stages, or on a negative cost.
    """
    if stages < 1 or stages > len(costs):
        raise ValueError(
            f"pipeline: {stages} is not between 1 and the number of layers, {len(costs)}"
        )
    if any(cost < 0 for cost in costs):
        raise ValueError("costs must not be negative")
    return list(_partition(tuple(float(cost) for cost in costs), stages))


@lru_cache(maxsize=256)
def _partition(costs: tuple[float, ...], stages: int) -> tuple[int, ...]:
    sums = [0.0, *accumulate(costs)]
    count = len(costs)
    # Differences of running sums lose digits that the greedy filling kept.
    bound = _least_bottleneck(costs, stages) * (1 + 1e-9)
    best = [[inf] * (count + 1) for _ in range(stages + 1)]
    cut = [[0] * (count + 1) for _ in range(stages + 1)]
    best[0][0] = 0.0
    for stage in range(1, stages + 1):
        for end in range(stage, count - (stages - stage) + 1):
            for start in range(end - 1, stage - 2, -1):
                weight = sums[end] - sums[start]
                if weight > bound:
                    break
                value = best[stage - 1][start] + weight * weight
                if value < best[stage][end] * (1 - 1e-12):
                    best[stage][end], cut[stage][end] = value, start
    boundaries = [count]
    for stage in range(stages, 0, -1):
        boundaries.append(cut[stage][boundaries[-1]])
    return tuple(reversed(boundaries))


def _least_bottleneck(costs: tuple[float, ...], stages: int) -> float:
    """The least possible cost of the largest group, by bisection on a greedy filling."""
    low, high = max(*costs, sum(costs) / stages), sum(costs)
    for _ in range(64):
        middle = (low + high) / 2
        if _groups(costs, middle) <= stages:
            high = middle
        else:
            low = middle
    return high


def _groups(costs: tuple[float, ...], bound: float) -> int:
    groups, filled = 1, 0.0
    for cost in costs:
        if filled + cost > bound * (1 + 1e-12):
            groups, filled = groups + 1, 0.0
        filled += cost
    return groups


def layer_costs(architecture: Architecture, vocab_size: int, sequence_length: int) -> list[float]:
    """FLOPs per token of every decoder layer; the last one carries the output projection."""
    costs = per_layer(
        architecture, lambda index: layer_flops_per_token(architecture, index, sequence_length)
    )
    costs[-1] += head_flops_per_token(architecture, vocab_size)
    return costs


def stage_boundaries(
    architecture: Architecture, vocab_size: int, sequence_length: int, stages: int
) -> list[int]:
    """Which decoder layers each stage holds, as planner and trainer both use it.

    The embedding belongs to the first stage, final norm and output projection to the last.
    Raises ValueError when there are more stages than layers.
    """
    return partition_layers(layer_costs(architecture, vocab_size, sequence_length), stages)


def stage_costs(costs: Sequence[float], boundaries: Sequence[int]) -> list[float]:
    """The cost of each stage."""
    return [sum(costs[start:end]) for start, end in pairwise(boundaries)]
