"""The smaller layouts that a training may go on with when its full gang does not fit. Pure.

The global batch is held: only layouts whose data-parallel degree divides it are possible, and each
rank accumulates over more micro-batches. No degree grows, so that whatever a rank of the full
layout can do one of a smaller layout can do too, memory apart, which is estimated anew.
"""

from __future__ import annotations

from itertools import groupby

from quarterdeck.planner.estimate import Workload
from quarterdeck.planner.layouts import broken_rule, evaluate
from quarterdeck.specs.training import Parallelism

MOST_LAYOUTS = 128
PER_SIZE = 3
"""Layouts of one number of ranks that are kept: others fit where the first finds no host."""


def smaller_layouts(
    workload: Workload, full: Parallelism, min_ranks: int, *, check_memory: bool = True
) -> list[Parallelism]:
    """Layouts of fewer ranks than `full`, at least `min_ranks`, the one to prefer first.

    More ranks come first; of as many ranks, the one that changes less: data shrinks before the
    pipeline, the pipeline before tensor groups. At most 128, thinned out evenly beyond.
    """
    batches = workload.batches.sizes
    datas = [d for d in range(1, full.data + 1) if all(size % d == 0 for size in batches)]
    found = [
        _layout(full, data, tensor, pipeline)
        for data in datas
        for tensor in range(1, full.tensor + 1)
        if full.tensor % tensor == 0
        for pipeline in range(1, full.pipeline + 1)
        if min_ranks <= data * tensor * pipeline < full.ranks
    ]
    possible = [layout for layout in found if broken_rule(workload, layout) is None]
    possible.sort(key=lambda layout: preference(full, layout))
    by_size = groupby(possible, key=lambda layout: layout.ranks)
    kept = [layout for _, group in by_size for layout in list(group)[:PER_SIZE]]
    if len(kept) > MOST_LAYOUTS:
        kept = [kept[i * (len(kept) - 1) // (MOST_LAYOUTS - 1)] for i in range(MOST_LAYOUTS)]
    return [one for one in kept if not check_memory or evaluate(workload, one).fits]


def preference(full: Parallelism, layout: Parallelism) -> tuple[float, ...]:
    """The order of layouts smaller than `full`; the least is the best."""
    return (
        -layout.ranks,
        full.tensor / layout.tensor,
        full.pipeline / layout.pipeline,
        full.data / layout.data,
    )


def _layout(full: Parallelism, data: int, tensor: int, pipeline: int) -> Parallelism:
    return full.model_copy(
        update={
            "data": data,
            "tensor": tensor,
            "pipeline": pipeline,
            "sequence": full.sequence and tensor > 1,
        }
    )
