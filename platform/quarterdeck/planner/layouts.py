"""Which layouts of a gang are possible, which fit, and which is fastest; why each other is not."""

from __future__ import annotations

from collections.abc import Iterator
from math import gcd
from typing import Literal

from quarterdeck.planner.estimate import USABLE_MEMORY, LayoutPlan, Workload, estimate
from quarterdeck.planner.stages import partition_layers
from quarterdeck.specs.base import Message
from quarterdeck.specs.training import Parallelism

__all__ = ["RejectedLayout", "Search", "broken_rule", "candidates", "partition_layers", "search"]

LARGEST_MICRO_BATCH = 8
"""Beyond this many sequences a micro-batch brings kernels no more efficiency worth its memory."""
MICRO_BATCHES_PER_STAGE = 4
"""Fewer per stage and the bubble passes a fifth of the step."""

Rule = Literal["host", "heads", "width", "layers", "zero", "batch", "ramp", "positions",
               "sequence", "memory"]  # fmt: skip


class RejectedLayout(Message):
    """A layout that cannot be, and why, in words that name the field."""

    parallelism: Parallelism
    rule: Rule
    reason: str
    memory: int | None = None
    """Bytes that the worst rank would need, where it came to that."""


class Search(Message):
    """What a search found: layouts that fit, best first, and the others with their reasons."""

    layouts: list[LayoutPlan] = []
    rejected: list[RejectedLayout] = []
    smallest: LayoutPlan | None = None
    """The layout that needs least memory, whether or not it fits."""


def candidates(ranks: int, *, apart: bool = False) -> Iterator[Parallelism]:
    """Every division of `ranks` into data × tensor × pipeline, with the ZeRO stages worth
    having: 1 with a pipeline, else 1 to 3. Stage 0 needs more memory than 1 and saves nothing,
    but is the only one for replicas that train `apart`, of which there are two at least where
    there are ranks for them."""
    for tensor in _divisors(ranks):
        for pipeline in _divisors(ranks // tensor):
            data = ranks // tensor // pipeline
            if apart and data == 1 < ranks:
                continue
            stages = (1,) if pipeline > 1 or data == 1 else (1, 2, 3)
            for zero in (0,) if apart else stages:
                for sequence in (False, True) if tensor > 1 else (False,):
                    yield Parallelism(
                        data=data, tensor=tensor, pipeline=pipeline, zero=zero, sequence=sequence
                    )


def _divisors(number: int) -> list[int]:
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return small + [number // d for d in reversed(small) if d * d != number]


def broken_rule(workload: Workload, parallelism: Parallelism) -> tuple[Rule, str] | None:
    """The first rule, memory apart, that the layout breaks, or None."""
    return (
        _tensor_rule(workload, parallelism)
        or _pipeline_rule(workload, parallelism)
        or _batch_rule(workload, parallelism)
    )


def _tensor_rule(workload: Workload, parallelism: Parallelism) -> tuple[Rule, str] | None:
    t, architecture, host = parallelism.tensor, workload.architecture, workload.ranks_per_host
    heads, kv_heads = architecture.num_attention_heads, architecture.kv_heads
    if t > host:
        return "host", f"tensor: {t} is more than the {host} ranks of a host"
    if parallelism.ranks > host and host % t:
        return "host", f"tensor: {t} does not divide the {host} ranks of a host: groups would span"
    if heads % t:
        return "heads", f"tensor: {t} does not divide num_attention_heads {heads}"
    if architecture.latent_attention is None and kv_heads % t:
        return "heads", (
            f"tensor: {t} does not divide num_key_value_heads {kv_heads}: "
            "ranks would have to train copies of a head in step"
        )
    moe = architecture.moe
    widths = {architecture.intermediate_size, *((moe.expert_intermediate_size,) if moe else ())}
    for width in sorted(widths):
        if width % t:
            return "width", f"tensor: {t} does not divide the feed-forward width {width}"
    if parallelism.sequence and workload.sequence_length % t:
        return "sequence", (
            f"sequence: true needs sequence_length {workload.sequence_length} divisible by "
            f"tensor: {t}"
        )
    return None


def _pipeline_rule(workload: Workload, parallelism: Parallelism) -> tuple[Rule, str] | None:
    layers = workload.architecture.num_hidden_layers
    if parallelism.pipeline > layers:
        return "layers", f"pipeline: {parallelism.pipeline} is more than the {layers} layers"
    if parallelism.pipeline > 1 and parallelism.zero > 1:
        return "zero", f"zero: {parallelism.zero} with a pipeline: use zero: 1"
    problem = workload.sync.broken_rule(parallelism) if workload.sync else None
    return ("zero", problem) if problem else None


def _batch_rule(workload: Workload, parallelism: Parallelism) -> tuple[Rule, str] | None:
    batch, data = workload.global_batch_size, parallelism.data
    micro = workload.micro_batch_size or 1
    share = f"data: {data}" + (f" × micro_batch_size: {micro}" if micro > 1 else "")
    if batch % (data * micro):
        return "batch", f"{share} does not divide global_batch_size {batch}"
    for size in workload.batches.sizes:
        if size % (data * micro):
            return "ramp", (
                f"{share} does not divide the ramp's batch of {size}: choose start and increment "
                f"of batch_ramp as multiples of {data * micro}"
            )
    architecture = workload.architecture
    positions = architecture.max_position_embeddings
    if architecture.position_embedding == "learned" and workload.sequence_length > positions:
        return "positions", (
            f"sequence_length {workload.sequence_length} is more than the {positions} learned "
            "positions: shorten it, or raise max_position_embeddings"
        )
    return None


def evaluate(workload: Workload, parallelism: Parallelism) -> LayoutPlan:
    """The estimate of a layout that breaks no rule, with the micro-batch that suits it.

    Without a given size: the largest power of two up to 8 that fits, divides the replica's share
    of every batch and leaves at least 4 micro-batches per stage; 1 where none does.
    """
    if workload.micro_batch_size is not None:
        return estimate(workload, parallelism, workload.micro_batch_size)
    share = workload.global_batch_size // parallelism.data
    divisor = gcd(*workload.batches.sizes) // parallelism.data
    size = LARGEST_MICRO_BATCH
    while size > 1:
        enough = parallelism.pipeline == 1 or (
            share // size >= MICRO_BATCHES_PER_STAGE * parallelism.pipeline
        )
        if divisor % size == 0 and enough:
            plan = estimate(workload, parallelism, size)
            if plan.fits:
                return plan
        size //= 2
    return estimate(workload, parallelism, 1)


def rank_key(plan: LayoutPlan) -> tuple[float, float, int, int]:
    """Order of layouts: the shorter step (to 0.1 %), then less communication, then the lower
    ZeRO stage, then less memory."""
    step = float(f"{plan.step_seconds:.3g}")
    exchange = float(f"{plan.communication_seconds:.3g}")
    return step, exchange, plan.parallelism.zero, plan.memory.total


def out_of_memory(workload: Workload, plan: LayoutPlan) -> str:
    """The reason of a layout that does not fit."""
    device = workload.accelerator
    parts = plan.memory.model_dump(exclude={"stage", "host", "total"})
    largest = max(parts, key=lambda name: int(parts[name]))
    return (
        f"needs {gigabytes(plan.memory.total)} per rank (mostly {largest.replace('_', ' ')}, "
        f"{gigabytes(parts[largest])}); {device.name} has {gigabytes(device.memory)}, of which "
        f"{gigabytes(USABLE_MEMORY * device.memory)} can be planned with"
    )


def gigabytes(size: float) -> str:
    """Bytes for people, in decimal units."""
    if size < 1e9:
        return f"{size / 1e6:.0f} MB"
    return f"{size / 1e9:.1f} GB" if size < 1e11 else f"{size / 1e9:.0f} GB"


def search(workload: Workload, ranks: int) -> Search:
    """All layouts of `ranks` ranks: those that fit, best first, and every other's reason."""
    fitting: list[LayoutPlan] = []
    rejected: list[RejectedLayout] = []
    smallest: LayoutPlan | None = None
    for parallelism in candidates(ranks, apart=workload.sync is not None):
        if broken := broken_rule(workload, parallelism):
            rule, reason = broken
            rejected.append(RejectedLayout(parallelism=parallelism, rule=rule, reason=reason))
            continue
        plan = evaluate(workload, parallelism)
        if smallest is None or plan.memory.total < smallest.memory.total:
            smallest = plan
        if plan.fits:
            fitting.append(plan)
        else:
            rejected.append(
                RejectedLayout(
                    parallelism=parallelism,
                    rule="memory",
                    reason=out_of_memory(workload, plan),
                    memory=plan.memory.total,
                )
            )
    return Search(layouts=sorted(fitting, key=rank_key), rejected=rejected, smallest=smallest)


def fewest_ranks(workload: Workload, limit: int, start: int = 1) -> int | None:
    """The least of start, 2·start, … up to `limit` ranks with a layout that fits."""
    ranks = start
    while ranks <= limit:
        if search(workload, ranks).layouts:
            return ranks
        ranks *= 2
    return None
