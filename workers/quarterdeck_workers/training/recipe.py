"""The recipe of a training: learning rates, steps and batches. Pure functions of a spec.

Defaults are LLaMA's (Touvron et al. 2023, section 2.2 and table 2): AdamW with β 0.9 and 0.95,
cosine to a tenth, weight decay 0.1, clipping at 1.0 and 2,000 warm-up steps. Learning rates of
smaller models are GPT-3's (Brown et al. 2020, table 2.1), which LLaMA's continue.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from quarterdeck.planner.batches import with_batch_size
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
    global_batch_size: int
    micro_batch_size: int
    micro_batches: int
    """Micro-batches of each data-parallel rank in a step (gradient accumulation)."""
    seed: int

    @property
    def tokens_per_step(self) -> int:
        return self.global_batch_size * self.sequence_length

    def learning_rate_at(self, step: int) -> float:
        """The rate of 1-based `step`: linear warm-up to the peak, then the schedule.

        Cosine and linear reach the minimum at the last step. Raises ValueError below 1.
        """
        if step < 1:
            raise ValueError(f"step {step} is not 1 or more: steps are counted from 1")
        if step <= self.warmup_steps:
            return self.learning_rate * step / self.warmup_steps
        if self.schedule == "constant":
            return self.learning_rate
        span = max(1, self.steps - self.warmup_steps)
        progress = min(1.0, (step - self.warmup_steps) / span)
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
    per_step = training.batch * training.sequence_length
    if training.steps is not None:
        return training.steps
    if training.tokens is not None:
        return max(1, math.ceil(training.tokens / per_step))
    assert training.passes is not None  # the spec demands exactly one of the three
    return max(1, math.floor(training.passes * dataset_tokens / per_step))


def micro_batch_size(training: Training, parallelism: Parallelism) -> int:
    """Sequences of one micro-batch on one rank.

    Not given: as the planner expects, the largest power of two up to 8 that divides the rank's
    share and, with a pipeline, leaves four micro-batches per stage (a bubble of at most a fifth);
    1 where none does. Raises ValueError when the global batch cannot be dealt out.
    """
    batch, data = training.batch, parallelism.data
    if batch % data:
        raise ValueError(
            f"global_batch_size {batch} is not divisible by data: {data}; "
            f"choose a multiple of {data}"
        )
    share = batch // data
    if training.micro_batch_size is not None:
        if share % training.micro_batch_size:
            raise ValueError(
                f"micro_batch_size {training.micro_batch_size} does not divide the {share} "
                f"sequences of each data-parallel rank (global_batch_size {batch} / data {data})"
            )
        return training.micro_batch_size
    least = MICRO_BATCHES_PER_STAGE * parallelism.pipeline if parallelism.pipeline > 1 else 1
    size = LARGEST_MICRO_BATCH
    while size > 1 and (share % size or share // size < least):
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
        global_batch_size=training.batch,
        micro_batch_size=micro,
        micro_batches=training.batch // parallelism.data // micro,
        seed=training.seed,
    )


def sample_indices(
    recipe: Recipe, *, step: int, micro_batch: int, data: int, replica: int, first: int = 0
) -> range:
    """Global sample indices of one micro-batch of one data-parallel rank.

    A step covers `global_batch_size` consecutive indices, whatever the layout, so that a resume
    on another data-parallel degree repeats and skips none. `first` is the index of step 1.
    """
    start = first + (step - 1) * recipe.global_batch_size
    start += (micro_batch * data + replica) * recipe.micro_batch_size
    return range(start, start + recipe.micro_batch_size)
