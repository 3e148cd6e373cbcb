"""One layout, estimated: memory of its worst rank, time of a step, and what that costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from quarterdeck.planner import communication, time_cost
from quarterdeck.planner.batches import BatchSchedule, batch_schedule
from quarterdeck.planner.flops import Recompute, training_flops_per_token
from quarterdeck.planner.hardware import CPU, Accelerator
from quarterdeck.planner.memory import BYTES, MemoryParts, rank_memory, stage_parameters, worst_rank
from quarterdeck.planner.stages import layer_costs, stage_boundaries, stage_costs
from quarterdeck.specs.architecture import Architecture
from quarterdeck.specs.base import Message
from quarterdeck.specs.training import BatchRamp, Parallelism, Precision, Sync

USABLE_MEMORY = 0.9
"""Share of the device's memory that a layout may plan with: the rest is the framework's,
communication buffers' and fragmentation's."""
DEFAULT_MFU = 0.45
DEFAULT_MFU_CPU = 0.30


@dataclass(frozen=True)
class Workload:
    """What is to be trained, and on what. Sizes in tokens and sequences; `mfu` is the share of
    peak FLOP/s that a stage reaches while it works."""

    architecture: Architecture
    vocab_size: int
    sequence_length: int
    global_batch_size: int
    micro_batch_size: int | None
    precision: Precision
    recompute: Recompute
    accelerator: Accelerator
    ranks_per_host: int
    mfu: float
    tokens: int | None = None
    batch_ramp: BatchRamp | None = None
    sync: Sync | None = None

    @property
    def outer_bytes(self) -> int:
        """Bytes per parameter of an outer optimizer: fp32 weights of the last meeting, momentum."""
        return 8 if self.sync is not None and self.sync.outer.method == "nesterov" else 0

    @property
    def tokens_per_step(self) -> int:
        """At the full batch."""
        return self.global_batch_size * self.sequence_length

    @property
    def batches(self) -> BatchSchedule:
        return batch_schedule(self.global_batch_size, self.batch_ramp)

    @property
    def steps(self) -> int | None:
        """Steps that see all tokens; None when their number is not known."""
        if self.tokens is None:
            return None
        return self.batches.steps_for(-(-self.tokens // self.sequence_length))


class LayoutPlan(Message):
    """A layout's estimate. Bytes, seconds, US dollars."""

    parallelism: Parallelism
    ranks: int
    micro_batch_size: int
    micro_batches: int
    """Micro-batches that each data-parallel replica adds up in a step."""
    boundaries: list[int]
    """Stage i holds decoder layers boundaries[i] up to boundaries[i + 1]."""
    memory: MemoryParts
    """Of the worst pipeline stage's rank."""
    stages: list[MemoryParts]
    memory_share: float
    """Needed ÷ the device's memory; up to 0.9 fits."""
    fits: bool
    step_seconds: float
    compute_seconds: float
    communication_seconds: float
    bubble_seconds: float
    bubble: float
    """Share of a step that stages wait, (p−1)/(m+p−1)."""
    tokens_per_second: float
    seconds: float | None
    accelerator_hours: float | None
    cost: float | None


def default_mfu(accelerator: Accelerator) -> float:
    """What to expect of a device that has no finished runs to calibrate from."""
    return DEFAULT_MFU_CPU if accelerator.name == CPU else DEFAULT_MFU


def effective_zero(parallelism: Parallelism, precision: Precision) -> int:
    """The ZeRO stage that runs. DeepSpeed without ZeRO keeps no fp32 copy of bf16 weights, and
    neither clips a pipeline's nor counts split parameters' gradients rightly; stage 1 does."""
    inexact = precision == "bf16" or parallelism.pipeline > 1 or parallelism.tensor > 1
    return 1 if parallelism.zero == 0 and inexact else parallelism.zero


def estimate(workload: Workload, parallelism: Parallelism, micro_batch_size: int) -> LayoutPlan:
    """The estimate of a layout that keeps every rule but, perhaps, memory's.

    A step lasts max(compute, communication) + bubble, of the slowest stage. Numbers of a step are
    those at the full batch.
    """
    micro_batches = workload.global_batch_size // (parallelism.data * micro_batch_size)
    ranks = parallelism.ranks
    boundaries = stage_boundaries(
        workload.architecture, workload.vocab_size, workload.sequence_length, parallelism.pipeline
    )
    # Replicas that train by themselves shard nothing, whichever stage runs inside each.
    apart = workload.sync is not None
    running = {"zero": 0 if apart else effective_zero(parallelism, workload.precision)}
    # A CPU's memory is the host's: what is offloaded stays where it was.
    moved = {"offload": "none"} if workload.accelerator.name == CPU else {}
    stages = rank_memory(
        workload.architecture,
        workload.vocab_size,
        parallelism.model_copy(update={**running, **moved}),
        sequence_length=workload.sequence_length,
        micro_batch_size=micro_batch_size,
        micro_batches=micro_batches,
        precision=workload.precision,
        recompute=workload.recompute,
        outer_bytes=workload.outer_bytes,
    )
    memory = worst_rank(stages)
    micro_seconds = _micro_batch_seconds(workload, parallelism, boundaries, micro_batch_size)
    bubble = (parallelism.pipeline - 1) * micro_seconds

    def parts(count: int) -> tuple[float, float]:
        """Compute and communication of a step of so many micro-batches."""
        exchange = _communication_seconds(
            workload, parallelism, boundaries, micro_batch_size, count
        )
        return count * micro_seconds, exchange

    compute, exchange = parts(micro_batches)
    step = max(compute, exchange) + bubble
    seconds = _total_seconds(
        workload,
        lambda size: max(parts(size // (parallelism.data * micro_batch_size))) + bubble,
    )
    hours = None if seconds is None else time_cost.accelerator_hours(seconds, ranks)
    price = workload.accelerator.price_per_hour
    share = memory.total / workload.accelerator.memory
    return LayoutPlan(
        parallelism=parallelism,
        ranks=ranks,
        micro_batch_size=micro_batch_size,
        micro_batches=micro_batches,
        boundaries=boundaries,
        memory=memory,
        stages=stages,
        memory_share=share,
        fits=share <= USABLE_MEMORY,
        step_seconds=step,
        compute_seconds=compute,
        communication_seconds=exchange,
        bubble_seconds=bubble,
        bubble=time_cost.bubble_share(parallelism.pipeline, micro_batches),
        tokens_per_second=workload.tokens_per_step / step,
        seconds=seconds,
        accelerator_hours=hours,
        cost=None if hours is None else time_cost.cost(hours, price),
    )


def _total_seconds(workload: Workload, step_seconds: Callable[[int], float]) -> float | None:
    """All steps, those of a ramp by their sizes; None when the amount is not known.

    `step_seconds` answers for a global batch.
    """
    steps = workload.steps
    if steps is None:
        return None
    portions = workload.batches.portions
    ends = [*(following.steps for following in portions[1:]), steps]
    return sum(
        max(0, min(end, steps) - portion.steps) * step_seconds(portion.size)
        for portion, end in zip(portions, ends, strict=True)
    )


def _micro_batch_seconds(
    workload: Workload, parallelism: Parallelism, boundaries: list[int], micro_batch_size: int
) -> float:
    """Forward and backward of one micro-batch on the slowest stage."""
    length = workload.sequence_length
    costs = layer_costs(workload.architecture, workload.vocab_size, length)
    slowest = max(stage_costs(costs, boundaries))
    model, done = (
        training_flops_per_token(
            workload.architecture, length, workload.vocab_size, recompute=recompute
        )
        for recompute in ("none", workload.recompute)
    )
    tokens = micro_batch_size * length
    peak = workload.accelerator.peak_of(workload.precision)
    return time_cost.training_seconds(
        tokens, slowest * done / model, parallelism.tensor, peak, workload.mfu
    )


def _communication_seconds(
    workload: Workload,
    parallelism: Parallelism,
    boundaries: list[int],
    micro_batch_size: int,
    micro_batches: int,
) -> float:
    """What the busiest rank sends in a step, over the links that its groups use."""
    device, width = workload.accelerator, BYTES[workload.precision]
    p, t, data = parallelism.pipeline, parallelism.tensor, parallelism.data
    hidden, length = workload.architecture.hidden_size, workload.sequence_length
    layers = max(end - start for start, end in pairwise(boundaries))
    per_layer = communication.tensor_parallel_elements(micro_batch_size, length, hidden, t)
    seconds = layers * micro_batches * per_layer * width / device.intra_host
    if p > 1:
        sent = 2 * micro_batches
        sent *= communication.pipeline_elements(micro_batch_size, length, hidden)
        near = communication.pipeline_in_host(data, t, p, workload.ranks_per_host)
        seconds += sent * width / (device.intra_host if near else device.inter_host)
    if data > 1:
        held = max(stage_parameters(workload.architecture, workload.vocab_size, boundaries, t))
        elements = communication.data_parallel_elements(held, parallelism.zero, micro_batches)
        # Gradients are reduced in fp32, once each; the rest are gathered weights.
        sent_data = held * BYTES["fp32"] + (elements - held) * width
        near = communication.data_group_in_host(data, t, workload.ranks_per_host)
        every = 1 if workload.sync is None else workload.sync.every
        seconds += sent_data / (device.intra_host if near else device.inter_host) / every
    return seconds
