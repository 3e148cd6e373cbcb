"""The global batch of a training that states none: the papers' tokens per batch, by size."""

from __future__ import annotations

import math

from quarterdeck.specs.training import Training

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
    """`training` with its global batch known: as given, or the preset for the model's size."""
    if training.global_batch_size is not None:
        return training
    size = preset_batch_size(parameters, training.sequence_length)
    return training.model_copy(update={"global_batch_size": size})
