"""Likelihoods against sums by hand, and against other tools."""

from __future__ import annotations

import gzip
import lzma
import math
import random

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from quarterdeck.specs.architecture import Architecture
from quarterdeck_workers.evaluation.perplexity import (
    Score,
    compress,
    stream_nats,
    stream_of,
    token_counts,
    unigram_nats,
)
from quarterdeck_workers.models.decoder import Decoder
from quarterdeck_workers.models.initialisation import build_model

VOCABULARY = 40
STREAM = np.random.default_rng(0).integers(0, VOCABULARY, 101)


@pytest.fixture(scope="module")
def model() -> Decoder:
    architecture = Architecture(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=128, initializer_range=0.3,
    )  # fmt: skip
    return build_model(architecture, VOCABULARY, seed=2)


def token_by_token(model: Decoder, length: int, stride: int) -> float:
    """Each prediction from a forward pass of its own, over the window that it belongs to."""
    total = 0.0
    for target in range(1, len(STREAM)):
        end = min(((target - 1) // stride + 1) * stride, len(STREAM) - 1)
        context = torch.from_numpy(STREAM[max(0, end - length) : target]).unsqueeze(0)
        with torch.no_grad():
            logits = model(context)[0, -1].double()
        total -= float(functional.log_softmax(logits, -1)[STREAM[target]])
    return total


@pytest.mark.parametrize(
    ("length", "stride"), [(16, None), (16, 16), (16, 4), (16, 1), (7, 3), (200, 200), (100, 100)]
)
def test_every_token_is_scored_once_with_its_context(
    model: Decoder, length: int, stride: int | None
) -> None:
    found = stream_nats(model, STREAM, sequence_length=length, stride=stride, batch_size=3)
    assert found == pytest.approx(token_by_token(model, length, stride or length), rel=1e-5)


def test_batches_change_nothing(model: Decoder) -> None:
    one, many = (stream_nats(model, STREAM, sequence_length=8, batch_size=size) for size in (1, 64))
    assert one == pytest.approx(many, rel=1e-6)


def test_a_uniform_model_has_the_vocabulary_as_perplexity() -> None:
    def uniform(tokens: Tensor) -> Tensor:
        return torch.zeros(*tokens.shape, VOCABULARY)

    nats = stream_nats(uniform, STREAM, sequence_length=9)
    score = Score(nats, len(STREAM) - 1, 50)
    assert score.perplexity == pytest.approx(VOCABULARY)
    assert score.bits_per_byte == pytest.approx(100 * math.log2(VOCABULARY) / 50)


def test_progress_reaches_the_end(model: Decoder) -> None:
    seen: list[tuple[int, int]] = []
    stream_nats(model, STREAM, sequence_length=16, progress=lambda d, t, _: seen.append((d, t)))
    assert seen[-1] == (100, 100)


@pytest.mark.parametrize("stride", [0, 17])
def test_strides_that_skip_or_repeat_are_refused(model: Decoder, stride: int) -> None:
    with pytest.raises(ValueError, match=f"stride {stride}"):
        stream_nats(model, STREAM, sequence_length=16, stride=stride)


def test_unigram_is_add_one_smoothed() -> None:
    counts = token_counts([np.array([1, 1, 2]), np.array([1])], 4)
    assert counts.tolist() == [0, 3, 1, 0]
    stream = stream_of([np.array([1, 3])], eos=0)
    assert stream.tolist() == [0, 1, 3]
    assert unigram_nats(counts, stream) == pytest.approx(-math.log(4 / 8) - math.log(1 / 8))


def test_compressors_are_those_of_the_command_line() -> None:
    words = random.Random(1).choices(["alpha ", "beta ", "gamma\n", "delta "], k=5000)
    texts = ["".join(words[i : i + 100]).encode() for i in range(0, 5000, 100)]
    whole = b"".join(texts)
    found = compress(texts)
    assert found.plain == len(whole)
    assert abs(found.gzip - len(gzip.compress(whole, 9))) <= 4
    assert abs(found.xz - len(lzma.compress(whole, preset=9))) <= 16
    assert 0 < found.xz_bits_per_byte < found.gzip_bits_per_byte < 8
    with pytest.raises(ValueError, match="no text"):
        compress([])
