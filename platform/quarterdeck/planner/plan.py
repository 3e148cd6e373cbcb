"""Plans for people: will it fit, how long, what does it cost, which layout, and what if not."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from quarterdeck.planner.batches import schedule_of, with_batch_size
from quarterdeck.planner.estimate import LayoutPlan, Workload, default_mfu, effective_zero
from quarterdeck.planner.flops import matrix_parameters, training_flops_per_token
from quarterdeck.planner.hardware import CPU, Accelerator
from quarterdeck.planner.layouts import (
    RejectedLayout,
    Search,
    broken_rule,
    evaluate,
    fewest_ranks,
    gigabytes,
    out_of_memory,
    search,
)
from quarterdeck.planner.parameters import ParameterCount, count_parameters
from quarterdeck.planner.remedies import Remedy, remedies
from quarterdeck.planner.time_cost import lifetime_flops
from quarterdeck.specs.architecture import Architecture
from quarterdeck.specs.base import Message
from quarterdeck.specs.kinds import PretrainSpec
from quarterdeck.specs.training import Parallelism, Precision, Sync, Training

ASSUMED_VOCABULARY = 32_000
SHOWN_LAYOUTS = 10


class TrainingEstimate(Message):
    """The whole run in numbers. FLOPs, seconds, hours of all accelerators, US dollars."""

    tokens: int | None
    steps: int | None
    tokens_per_step: int
    """At the full batch, after any ramp."""
    flops_per_token: float
    """Model FLOPs, without what recomputation repeats."""
    total_flops: float | None
    mfu: float
    """The share of peak assumed of a working stage, before bubble and communication."""
    seconds: float | None = None
    accelerator_hours: float | None = None
    cost: float | None = None
    price_per_hour: float
    chinchilla_tokens: int
    """20 tokens per parameter, the amount that spends compute best."""


class LifetimeEstimate(Message):
    """Training and serving compared: 6ND once, 2N for each token served."""

    training_flops: float
    equal_at_served_tokens: float
    """Serving as many tokens as this costs as much as training did (3D)."""
    flops_then: float


class Plan(Message):
    """The answer to a `pretrain` document."""

    fits: bool
    message: str
    """One line: the chosen layout, or why there is none."""
    parameters: ParameterCount
    vocab_size: int
    ranks: int
    accelerator: Accelerator
    ranks_per_host: int
    precision: Precision
    layout: LayoutPlan | None
    """The layout asked for, or with `auto` the best that fits."""
    layouts: list[LayoutPlan]
    """Up to ten that fit, best first."""
    rejected: list[RejectedLayout]
    remedies: list[Remedy]
    training: TrainingEstimate
    lifetime: LifetimeEstimate | None
    notes: list[str]


def plan_pretrain(
    architecture: Architecture,
    training: Training,
    *,
    accelerator: Accelerator,
    parallelism: Parallelism | Literal["auto"] = "auto",
    ranks: int | None = None,
    ranks_per_host: int | None = None,
    precision: Precision | None = None,
    vocab_size: int | None = None,
    tokens: int | None = None,
    mfu: float | None = None,
    sync: Sync | None = None,
    rank_limit: int = 4096,
) -> Plan:
    """Plan a `pretrain` job.

    `vocab_size` overrides the architecture's; neither known, 32,000 are assumed and a note says
    so. `tokens` overrides the amount that `training` states; needed for its `passes` (otherwise
    durations are None). `ranks_per_host` defaults to the accelerator's. `mfu` comes from finished
    runs where there are any. With `auto` and no `ranks`, the fewest ranks that fit, up to
    `rank_limit`. Precision defaults to bf16, on CPU to fp32.

    Raises ValueError when `ranks` contradicts `parallelism`, `mfu` is not within (0, 1], or the
    accelerator does not know the precision. A layout that breaks a rule or the memory does not
    raise: `fits` is False, and `message`, `rejected` and `remedies` say why and what to do.
    """
    if mfu is not None and not 0 < mfu <= 1:
        raise ValueError(f"mfu {mfu} is not a share of peak: give more than 0 and at most 1")
    chosen_precision = precision or ("fp32" if accelerator.name == CPU else "bf16")
    accelerator.peak_of(chosen_precision)
    notes: list[str] = []
    size = vocab_size or architecture.vocab_size
    if size is None:
        size = ASSUMED_VOCABULARY
        notes.append(f"vocabulary not known yet: planned with {size} tokens")
    training = with_batch_size(training, count_parameters(architecture, size).total)
    if tokens is None:
        tokens = training.tokens
        if training.steps is not None:
            samples = schedule_of(training).samples_through(training.steps)
            tokens = samples * training.sequence_length
    if tokens is None:
        notes.append("the data's size is not known yet: no duration and no cost")
    workload = Workload(
        architecture=architecture,
        vocab_size=size,
        sequence_length=training.sequence_length,
        global_batch_size=training.batch,
        micro_batch_size=training.micro_batch_size,
        precision=chosen_precision,
        recompute=training.activation_checkpointing,
        accelerator=accelerator,
        ranks_per_host=ranks_per_host or accelerator.per_host,
        mfu=mfu or default_mfu(accelerator),
        tokens=tokens,
        batch_ramp=training.batch_ramp,
        sync=sync,
    )
    count = _ranks(workload, parallelism, ranks, rank_limit)
    found = search(workload, count)
    layout, broken = _chosen(workload, parallelism, found)
    # Remedies start from what was asked for; where that breaks a rule, from the nearest to fit.
    start = layout or (found.smallest if broken is None else None)
    fits = layout is not None and layout.fits
    _add_notes(notes, workload, layout)
    return Plan(
        fits=fits,
        message=_message(workload, layout, found, broken, count),
        parameters=count_parameters(architecture, size),
        vocab_size=size,
        ranks=count,
        accelerator=accelerator,
        ranks_per_host=workload.ranks_per_host,
        precision=chosen_precision,
        layout=layout,
        layouts=found.layouts[:SHOWN_LAYOUTS],
        rejected=[broken, *found.rejected] if broken else found.rejected,
        remedies=[]
        if fits or start is None
        else remedies(workload, start, rank_limit=min(rank_limit, 64 * count)),
        training=_training(workload, layout),
        lifetime=_lifetime(workload),
        notes=notes,
    )


def workload_of(spec: PretrainSpec, plan: Plan) -> Workload:
    """What `plan` was made for."""
    training = with_batch_size(spec.training, plan.parameters.total)
    return Workload(
        architecture=spec.architecture,
        vocab_size=plan.vocab_size,
        sequence_length=training.sequence_length,
        global_batch_size=training.batch,
        micro_batch_size=training.micro_batch_size,
        precision=plan.precision,
        recompute=training.activation_checkpointing,
        accelerator=plan.accelerator,
        ranks_per_host=plan.ranks_per_host,
        mfu=plan.training.mfu,
        tokens=plan.training.tokens,
        batch_ramp=training.batch_ramp,
        sync=spec.sync,
    )


def _ranks(
    workload: Workload,
    parallelism: Parallelism | Literal["auto"],
    ranks: int | None,
    rank_limit: int,
) -> int:
    if isinstance(parallelism, Parallelism):
        if ranks is not None and ranks != parallelism.ranks:
            raise ValueError(
                f"ranks {ranks} is not data × tensor × pipeline = {parallelism.ranks}: "
                "leave ranks out, or change a degree"
            )
        return parallelism.ranks
    # Where nothing fits at any size, one host shows best what is in the way.
    return ranks or fewest_ranks(workload, rank_limit) or workload.ranks_per_host


def _chosen(
    workload: Workload, parallelism: Parallelism | Literal["auto"], found: Search
) -> tuple[LayoutPlan | None, RejectedLayout | None]:
    """The layout to use, and the rule that a layout asked for breaks."""
    if parallelism == "auto":
        return (found.layouts[0] if found.layouts else None), None
    if rule := broken_rule(workload, parallelism):
        return None, RejectedLayout(parallelism=parallelism, rule=rule[0], reason=rule[1])
    return evaluate(workload, parallelism), None


def describe(parallelism: Parallelism) -> str:
    """A layout in one phrase: `data 2 × tensor 2 × pipeline 2, ZeRO-1`."""
    text = (
        f"data {parallelism.data} × tensor {parallelism.tensor} × pipeline {parallelism.pipeline}"
        f", ZeRO-{parallelism.zero}"
    )
    if parallelism.offload != "none":
        text += f", {parallelism.offload} offloaded"
    return f"{text}, sequence parallel" if parallelism.sequence else text


def _message(
    workload: Workload,
    layout: LayoutPlan | None,
    found: Search,
    broken: RejectedLayout | None,
    ranks: int,
) -> str:
    if broken is not None:
        return f"{describe(broken.parallelism)}: {broken.reason}"
    if layout is None:
        if found.smallest is not None:
            tightest = f"{describe(found.smallest.parallelism)} needs least and still "
            return f"no layout of {ranks} ranks fits: {tightest}" + out_of_memory(
                workload, found.smallest
            )
        reasons = list(dict.fromkeys(rejected.reason for rejected in found.rejected))
        return f"no layout of {ranks} ranks is possible: {'; '.join(reasons[:3])}"
    if not layout.fits:
        return f"{describe(layout.parallelism)} {out_of_memory(workload, layout)}"
    return (
        f"{describe(layout.parallelism)} fits: {gigabytes(layout.memory.total)} of "
        f"{gigabytes(workload.accelerator.memory)} per rank"
    )


def _add_notes(notes: list[str], workload: Workload, layout: LayoutPlan | None) -> None:
    architecture, length = workload.architecture, workload.sequence_length
    if layout is None:
        return
    runs = effective_zero(layout.parallelism, workload.precision)
    if workload.sync is None and runs != layout.parallelism.zero:
        notes.append("zero: 0 runs as ZeRO-1, which this layout and precision need to be exact")
    if layout.memory.host:
        notes.append(
            f"offload: optimizer needs {gigabytes(layout.memory.host)} of host memory per rank; "
            "moving gradients and weights over the host's bus is not in the durations"
        )
    if length > architecture.max_position_embeddings:
        notes.append(
            f"sequence_length {length} is more than max_position_embeddings "
            f"{architecture.max_position_embeddings}"
        )
    stages = [end - start for start, end in pairwise(layout.boundaries)]
    if len(set(stages)) > 1:
        notes.append(f"uneven pipeline stages, balanced by cost: {stages} layers")


def _training(workload: Workload, layout: LayoutPlan | None) -> TrainingEstimate:
    per_token = training_flops_per_token(
        workload.architecture, workload.sequence_length, workload.vocab_size
    )
    tokens = workload.tokens
    active = matrix_parameters(workload.architecture, workload.vocab_size)
    return TrainingEstimate(
        tokens=tokens,
        steps=workload.steps,
        tokens_per_step=workload.tokens_per_step,
        flops_per_token=per_token,
        total_flops=None if tokens is None else per_token * tokens,
        mfu=workload.mfu,
        seconds=layout.seconds if layout else None,
        accelerator_hours=layout.accelerator_hours if layout else None,
        cost=layout.cost if layout else None,
        price_per_hour=workload.accelerator.price_per_hour,
        chinchilla_tokens=20 * active,
    )


def _lifetime(workload: Workload) -> LifetimeEstimate | None:
    if workload.tokens is None:
        return None
    active = matrix_parameters(workload.architecture, workload.vocab_size)
    equal = 3.0 * workload.tokens
    return LifetimeEstimate(
        training_flops=lifetime_flops(active, workload.tokens, 0),
        equal_at_served_tokens=equal,
        flops_then=lifetime_flops(active, workload.tokens, equal),
    )
