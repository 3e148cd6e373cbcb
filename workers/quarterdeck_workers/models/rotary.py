"""Rotary position embeddings (Su et al. 2021), with linear and Llama 3.1 scaling.

Tables are computed once per (shape, length, device) and shared by all layers, so that a layer
stays a function of the hidden state alone and a pipeline can cut between any two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from quarterdeck.specs.architecture import Architecture

Scaling = tuple[tuple[str, float | int | str], ...]

SCALINGS = ("default", "linear", "llama3")


@dataclass(frozen=True)
class Rotary:
    """How positions turn: head size, base, and the scaling as sorted (key, value) pairs."""

    head_size: int
    theta: float
    scaling: Scaling = ()

    @classmethod
    def of(cls, architecture: Architecture) -> Rotary | None:
        """The architecture's rotations; None with learned positions.

        Raises ValueError for a rope_type that is not built here.
        """
        if architecture.position_embedding != "rope":
            return None
        scaling = architecture.rope_scaling or {}
        kind = rope_type(scaling)
        if kind not in SCALINGS:
            raise ValueError(
                f"rope_scaling.rope_type {kind!r} can be planned but not trained here: "
                f"use one of {', '.join(SCALINGS)}"
            )
        return cls(architecture.head_size, architecture.rope_theta, tuple(sorted(scaling.items())))

    def apply(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Turn [batch, heads, sequence, head size] by position; computed in fp32."""
        cosines, sines = _tables(self, query.shape[-2], query.device)
        return _turn(query, cosines, sines), _turn(key, cosines, sines)


def rope_type(scaling: Mapping[str, object]) -> str:
    """The kind of a `rope_scaling`; older files call it `type`."""
    return str(scaling.get("rope_type", scaling.get("type", "default")))


def inverse_frequencies(rotary: Rotary) -> Tensor:
    """Radians per position of each of the head size / 2 pairs, fp32, on the CPU.

    Llama 3.1 leaves short wavelengths alone, divides long ones by `factor` and blends between
    (Llama team 2024; `original_max_position_embeddings / low_freq_factor` and `/ high_freq_factor`
    are the borders).
    """
    exponents = torch.arange(0, rotary.head_size, 2, dtype=torch.float32) / rotary.head_size
    frequencies = 1.0 / (rotary.theta**exponents)
    scaling = dict(rotary.scaling)
    kind = rope_type(scaling)
    if kind == "default":
        return frequencies
    factor = float(scaling["factor"])
    if kind == "linear":
        return frequencies / factor
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    original = float(scaling["original_max_position_embeddings"])
    wavelengths = 2 * math.pi / frequencies
    share = ((original / wavelengths - low) / (high - low)).clamp(0.0, 1.0)
    return (1 - share) * frequencies / factor + share * frequencies


@lru_cache(maxsize=16)
def _tables(rotary: Rotary, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    # A table made under inference mode could never take part in training later.
    with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"):
        positions = torch.arange(length, dtype=torch.float32)
        angles = torch.outer(positions, inverse_frequencies(rotary))
        doubled = torch.cat((angles, angles), dim=-1)
        return doubled.cos().to(device), doubled.sin().to(device)


def _turn(value: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """The "rotate half" form: pair i is (i, i + head size / 2), as in Hugging Face's weights."""
    wide = value.float()
    first, second = wide.chunk(2, dim=-1)
    rotated = torch.cat((-second, first), dim=-1)
    return (wide * cosines + rotated * sines).to(value.dtype)
