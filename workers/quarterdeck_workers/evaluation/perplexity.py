"""How well a model predicts a text: negative log-likelihood, perplexity, bits per byte.

Documents are laid end to end, each followed by its end-of-text token, and one more of those
begins the stream: so every token, the first and the ends included, is predicted exactly once, and
the bits are those that a decoder would need to recover the documents. Likelihoods are summed in
fp64. Bits per byte divide by the UTF-8 bytes of the texts, so that models with different
tokenizers, and compressors, compare.
"""

from __future__ import annotations

import lzma
import math
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from quarterdeck_workers.data.dataset import Progress, no_progress

Logits = Callable[[Tensor], Tensor]
"""From token ids [batch, sequence] to logits [batch, sequence, vocabulary]."""


@dataclass(frozen=True)
class Score:
    """A likelihood of `tokens` predicted tokens, which encode `bytes` bytes of text."""

    nats: float
    tokens: int
    bytes: int

    @property
    def perplexity(self) -> float:
        return math.exp(self.nats / self.tokens)

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / self.bytes


def stream_of(documents: Iterable[NDArray[Any]], eos: int) -> NDArray[np.int64]:
    """Documents (each with its end-of-text token) in a row, after one end-of-text token."""
    return np.concatenate([np.array([eos], np.int64), *documents]).astype(np.int64)


@torch.inference_mode()
def stream_nats(
    logits: Logits,
    stream: NDArray[np.int64],
    *,
    sequence_length: int,
    stride: int | None = None,
    batch_size: int = 8,
    device: torch.device | str = "cpu",
    progress: Progress = no_progress,
) -> float:
    """Nats of every token of `stream` but the first, each given those before it.

    Windows of at most `sequence_length` inputs score their last `stride` predictions (None: all,
    windows side by side; smaller strides give every token more context). Raises ValueError for
    a stride outside 1 … sequence_length.
    """
    step = sequence_length if stride is None else stride
    if not 1 <= step <= sequence_length:
        raise ValueError(f"stride {step} is not between 1 and sequence_length {sequence_length}")
    total, size, done = 0.0, len(stream), 0
    for group in _groups(size, sequence_length, step, batch_size):
        rows = np.stack([stream[start : end + 1] for start, _, end in group])
        tokens = torch.from_numpy(rows).to(device)
        scored = group[0][2] - group[0][1]
        values = logits(tokens[:, :-1])[:, -scored:]
        targets = tokens[:, -scored:]
        nats = functional.cross_entropy(
            values.flatten(0, 1).float(), targets.flatten(), reduction="none"
        )
        total += float(nats.double().sum())
        done += scored * len(group)
        progress(done, size - 1, "tokens scored")
    return total


def _groups(
    size: int, length: int, step: int, batch_size: int
) -> Iterable[list[tuple[int, int, int]]]:
    """Windows (start, first, end): inputs start … end-1 predict start+1 … end, of which the last
    end - first count. Only windows of one shape share a group."""
    group: list[tuple[int, int, int]] = []
    for first in range(0, size - 1, step):
        end = min(first + step, size - 1)
        window = (max(0, end - length), first, end)
        same = group and (window[2] - window[0], end - first) == (
            group[0][2] - group[0][0],
            group[0][2] - group[0][1],
        )
        if group and (not same or len(group) == batch_size):
            yield group
            group = []
        group.append(window)
    if group:
        yield group


def token_counts(documents: Iterable[NDArray[Any]], vocab_size: int) -> NDArray[np.int64]:
    """How often each token occurs."""
    counts = np.zeros(vocab_size, np.int64)
    for tokens in documents:
        counts += np.bincount(tokens, minlength=vocab_size)
    return counts


def unigram_nats(counts: NDArray[np.int64], stream: NDArray[np.int64]) -> float:
    """Nats of every token of `stream` but the first under add-one smoothed frequencies."""
    total = int(counts.sum()) + len(counts)
    nats = -np.log((counts + 1).astype(np.float64) / total)
    return float(nats[stream[1:]].sum())


@dataclass(frozen=True)
class Compressed:
    """Bytes of the same texts, end to end, before and after general-purpose compressors."""

    plain: int
    gzip: int
    xz: int

    @property
    def gzip_bits_per_byte(self) -> float:
        return 8 * self.gzip / self.plain

    @property
    def xz_bits_per_byte(self) -> float:
        return 8 * self.xz / self.plain


def compress(texts: Iterable[bytes]) -> Compressed:
    """What `gzip -9` and `xz -9` make of the texts. Raises ValueError when they are empty."""
    gzip = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    xz = lzma.LZMACompressor(preset=9)
    plain = small = smaller = 0
    for text in texts:
        plain += len(text)
        small += len(gzip.compress(text))
        smaller += len(xz.compress(text))
    if plain == 0:
        raise ValueError("there is no text to compress")
    return Compressed(plain, small + len(gzip.flush()), smaller + len(xz.flush()))
