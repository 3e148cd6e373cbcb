"""Global batches: the papers' tokens per batch where none is given, and how a batch ramps up."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property

from quarterdeck.specs.training import BatchRamp, Training

SMALL_MODEL = 100_000_000
SMALL_BATCH = 64
"""Sequences per step of models below the papers' smallest (GPT-3's 125M): half a million tokens
would leave such trainings few steps."""

PRESETS = (
    (1_000_000_000, 2**19),
    (4_000_000_000, 2**20),
    (6_500_000_000, 2**21),
    (math.inf, 2**22),
)
"""(parameters up to which, tokens per batch): 0.5M, 1M and 2M are GPT-3's (Brown et al. 2020,
table 2.1), 4M LLaMA's from its "7B" of 6.7B on (Touvron et al. 2023, table 2)."""


def preset_batch_size(parameters: int, sequence_length: int) -> int:
    """Sequences per optimizer step for a model of `parameters` in all; at least 1.

    The preset's tokens, rounded to a power of two of sequences so that the usual data-parallel
    degrees divide it.
    """
    if parameters < SMALL_MODEL:
        return SMALL_BATCH
    tokens = next(tokens for limit, tokens in PRESETS if parameters <= limit)
    return 1 << max(0, round(math.log2(tokens / sequence_length)))


def with_batch_size(training: Training, parameters: int) -> Training:
    """`training` with its global batch known: as given, or the preset for the model's size.

    Raises ValueError when a ramp does not lead to the preset.
    """
    if training.global_batch_size is not None:
        return training
    size = preset_batch_size(parameters, training.sequence_length)
    if training.batch_ramp is not None:
        training.batch_ramp.portions(size)
    return training.model_copy(update={"global_batch_size": size})


@dataclass(frozen=True)
class Portion:
    """Steps of one size: they follow `steps` steps over `samples` sequences."""

    steps: int
    samples: int
    size: int


@dataclass(frozen=True)
class BatchSchedule:
    """The global batch of every step, in sequences. Pure arithmetic on steps counted from 1.

    The last portion goes on without end.
    """

    portions: tuple[Portion, ...]

    @cached_property
    def _steps(self) -> list[int]:
        return [portion.steps for portion in self.portions]

    @cached_property
    def _samples(self) -> list[int]:
        return [portion.samples for portion in self.portions]

    @property
    def final(self) -> int:
        """The size that stays."""
        return self.portions[-1].size

    @property
    def sizes(self) -> list[int]:
        return [portion.size for portion in self.portions]

    def size_at(self, step: int) -> int:
        """Sequences of `step`. Raises ValueError below 1."""
        if step < 1:
            raise ValueError(f"step {step} is not 1 or more: steps are counted from 1")
        return self._at_step(step - 1).size

    def samples_through(self, step: int) -> int:
        """Sequences of the first `step` steps; 0 of none."""
        portion = self._at_step(max(0, step - 1))
        return portion.samples + (step - portion.steps) * portion.size

    def steps_for(self, samples: int) -> int:
        """The fewest steps that see `samples` sequences."""
        portion = self.portions[bisect_right(self._samples, max(0, samples - 1)) - 1]
        return portion.steps + -(-(samples - portion.samples) // portion.size)

    def steps_within(self, samples: int) -> int:
        """The most steps that see no more than `samples` sequences."""
        portion = self.portions[bisect_right(self._samples, samples) - 1]
        return portion.steps + (samples - portion.samples) // portion.size

    def _at_step(self, done: int) -> Portion:
        """The portion of the step that follows `done` steps."""
        return self.portions[bisect_right(self._steps, done) - 1]


def batch_schedule(final: int, ramp: BatchRamp | None = None) -> BatchSchedule:
    """`final` from the first step on, or what a ramp leads up to it.

    Of n sizes below `final`, number i (from 0) lasts while fewer than (i + 1) / n of the ramp's
    samples have been seen before a step: one that no step begins in is passed over. Raises
    ValueError when the ramp does not lead to `final`.
    """
    if ramp is None:
        return BatchSchedule((Portion(0, 0, final),))
    count = ramp.portions(final)
    steps = samples = 0
    portions: list[Portion] = []
    for number in range(count):
        size, end = ramp.start + number * ramp.increment, -(-(number + 1) * ramp.samples // count)
        if samples >= end:
            continue
        portions.append(Portion(steps, samples, size))
        taken = -(-(end - samples) // size)
        steps, samples = steps + taken, samples + taken * size
    return BatchSchedule((*portions, Portion(steps, samples, final)))


def schedule_of(training: Training) -> BatchSchedule:
    """The batches of a training whose global batch is known."""
    return batch_schedule(training.batch, training.batch_ramp)
