"""The recipe of a training: learning rates, steps and batches. Pure functions of a spec.

Defaults are LLaMA's (Touvron et al. 2023, section 2.2 and table 2): AdamW with β 0.9 and 0.95,
cosine to a tenth, weight decay 0.1, clipping at 1.0 and 2,000 warm-up steps. Learning rates of
smaller models are GPT-3's (Brown et al. 2020, table 2.1), which LLaMA's continue.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from quarterdeck.planner.batches import BatchSchedule, schedule_of, with_batch_size
from quarterdeck.planner.layouts import LARGEST_MICRO_BATCH, MICRO_BATCHES_PER_STAGE
from quarterdeck.specs.training import Parallelism, Training

PRESETS = (
    (200_000_000, 6e-4),
    (500_000_000, 3e-4),
    (1_000_000_000, 2.5e-4),
    (2_000_000_000, 2e-4),
    (4_000_000_000, 1.6e-4),
    (20_000_000_000, 3e-4),
    (math.inf, 1.5e-4),
)
"""(parameters up to which, peak learning rate): GPT-3's up to 4B, then LLaMA's."""

LLAMA_WARMUP = 2000
WARMUP_SHARE = 0.1
"""Short trainings warm up for a tenth of their steps rather than for LLaMA's 2,000."""


@dataclass(frozen=True)
class Recipe:
    """A training's numbers with every default filled in. Batches count sequences."""

    steps: int
    learning_rate: float
    min_learning_rate: float
    schedule: str
    warmup_steps: int
    weight_decay: float
    betas: tuple[float, float]
    eps: float
    clip: float
    sequence_length: int
    batches: BatchSchedule
    micro_batch_size: int
    data: int
    """Data-parallel ranks that share each batch."""
    seed: int

    @property
    def global_batch_size(self) -> int:
        """The full batch, after any ramp."""
        return self.batches.final

    @property
    def micro_batches(self) -> int:
        """Micro-batches of each data-parallel rank at the full batch (gradient accumulation)."""
        return self.global_batch_size // self.data // self.micro_batch_size

    def micro_batches_at(self, step: int) -> int:
        """Micro-batches of each data-parallel rank in `step`."""
        return self.batches.size_at(step) // self.data // self.micro_batch_size

    def tokens_at(self, step: int) -> int:
        """Tokens of `step`, over all ranks."""
        return self.batches.size_at(step) * self.sequence_length

    def tokens_through(self, step: int) -> int:
        """Tokens of the first `step` steps."""
        return self.batches.samples_through(step) * self.sequence_length

    def samples_left(self, step: int) -> int:
        """Sequences still to see after `step`."""
        return self.batches.samples_through(self.steps) - self.batches.samples_through(step)

    def learning_rate_at(self, step: int) -> float:
        """The rate of 1-based `step`: linear warm-up to the peak, then the schedule.

        Cosine and linear fall with the samples seen, which a ramp has fewer of in its first
        steps, and reach the minimum at the last step. Raises ValueError below 1.
        """
        if step < 1:
            raise ValueError(f"step {step} is not 1 or more: steps are counted from 1")
        if step <= self.warmup_steps:
            return self.learning_rate * step / self.warmup_steps
        if self.schedule == "constant":
            return self.learning_rate
        warm = self.batches.samples_through(self.warmup_steps)
        span = max(1, self.batches.samples_through(self.steps) - warm)
        progress = min(1.0, (self.batches.samples_through(step) - warm) / span)
        falling = (
            0.5 * (1.0 + math.cos(math.pi * progress))
            if self.schedule == "cosine"
            else 1.0 - progress
        )
        return self.min_learning_rate + (self.learning_rate - self.min_learning_rate) * falling


def peak_learning_rate(parameters: int) -> float:
    """The preset for a model's size. `parameters` counts all of them."""
    return next(rate for limit, rate in PRESETS if parameters <= limit)


def steps_of(training: Training, dataset_tokens: int) -> int:
    """Optimizer steps, from tokens, steps or passes over `dataset_tokens`; at least 1."""
    batches, length = schedule_of(training), training.sequence_length
    if training.steps is not None:
        return training.steps
    if training.tokens is not None:
        return max(1, batches.steps_for(-(-training.tokens // length)))
    assert training.passes is not None  # the spec demands exactly one of the three
    return max(1, batches.steps_within(math.floor(training.passes * dataset_tokens / length)))


def micro_batch_size(training: Training, parallelism: Parallelism) -> int:
    """Sequences of one micro-batch on one rank.

    Not given: as the planner expects, the largest power of two up to 8 that divides the rank's
    share of every batch and, with a pipeline, leaves four micro-batches per stage of the full one
    (a bubble of at most a fifth); 1 where none does. Raises ValueError when a batch cannot be
    dealt out.
    """
    batch, data = training.batch, parallelism.data
    sizes = schedule_of(training).sizes
    if batch % data:
        raise ValueError(
            f"global_batch_size {batch} is not divisible by data: {data}; "
            f"choose a multiple of {data}"
        )
    share = batch // data
    if training.micro_batch_size is not None and share % training.micro_batch_size:
        raise ValueError(
            f"micro_batch_size {training.micro_batch_size} does not divide the {share} "
            f"sequences of each data-parallel rank (global_batch_size {batch} / data {data})"
        )
    deal = data * (training.micro_batch_size or 1)
    for size in sizes:
        if size % deal:
            raise ValueError(
                f"batch_ramp: the batch of {size} is not divisible by data × micro_batch_size = "
                f"{deal}; choose start and increment as multiples of {deal}"
            )
    if training.micro_batch_size is not None:
        return training.micro_batch_size
    divisor = math.gcd(*sizes) // data
    least = MICRO_BATCHES_PER_STAGE * parallelism.pipeline if parallelism.pipeline > 1 else 1
    size = LARGEST_MICRO_BATCH
    while size > 1 and (divisor % size or share // size < least):
        size //= 2
    return size


def make_recipe(
    training: Training, parallelism: Parallelism, *, parameters: int, dataset_tokens: int
) -> Recipe:
    """Fill in every default. `parameters` of the whole model, `dataset_tokens` of all data.

    Raises ValueError naming the field when batch and layout do not fit.
    """
    training = with_batch_size(training, parameters)
    steps = steps_of(training, dataset_tokens)
    rate = training.learning_rate or peak_learning_rate(parameters)
    warmup = training.warmup_steps
    if warmup is None:
        warmup = min(LLAMA_WARMUP, round(steps * WARMUP_SHARE))
    micro = micro_batch_size(training, parallelism)
    return Recipe(
        steps=steps,
        learning_rate=rate,
        min_learning_rate=rate * training.min_learning_rate_share,
        schedule=training.lr_schedule,
        warmup_steps=warmup,
        weight_decay=training.weight_decay,
        betas=training.betas,
        eps=training.eps,
        clip=training.clip,
        sequence_length=training.sequence_length,
        batches=schedule_of(training),
        micro_batch_size=micro,
        data=parallelism.data,
        seed=training.seed,
    )


def sample_indices(
    recipe: Recipe, *, step: int, micro_batch: int, replica: int, first: int = 0
) -> range:
    """Global sample indices of one micro-batch of one data-parallel rank.

    A step covers consecutive indices, as many as its batch, whatever the layout, so that a resume
    on another data-parallel degree repeats and skips none. `first` is the index of step 1.
    """
    start = first + recipe.batches.samples_through(step - 1)
    start += (micro_batch * recipe.data + replica) * recipe.micro_batch_size
    return range(start, start + recipe.micro_batch_size)
