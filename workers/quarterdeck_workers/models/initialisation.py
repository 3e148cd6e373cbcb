"""First values of parameters, a pure function of (seed, name, shape).

Each parameter has a random stream of its own, so every layout of ranks that takes its slices of
the whole tensors starts from the same model.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor, nn

from quarterdeck.specs.architecture import Architecture
from quarterdeck_workers.models.decoder import Decoder

RESIDUAL = (".attention.o.weight", ".feed_forward.down.weight")
"""Projections into the residual stream: scaled by 1/sqrt(2·layers) (Radford et al. 2019)."""


def initialise(
    parameter_name: str, shape: tuple[int, ...], architecture: Architecture, seed: int
) -> Tensor:
    """The whole fp32 tensor of a parameter of `Decoder`, e.g. `layers.3.attention.q.weight`.

    Norm weights are ones, biases zeros, matrices normal with `initializer_range`. A rank that
    holds a part takes its slice of the answer.
    """
    if parameter_name.endswith(".bias"):
        return torch.zeros(shape)
    if parameter_name.split(".")[-2].endswith("norm"):
        return torch.ones(shape)
    deviation = architecture.initializer_range
    if parameter_name.endswith(RESIDUAL):
        deviation /= math.sqrt(2 * architecture.num_hidden_layers)
    digest = hashlib.sha256(f"{seed}:{parameter_name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.empty(shape).normal_(0.0, deviation, generator=generator)


def build_model(
    architecture: Architecture,
    vocab_size: int | None = None,
    *,
    seed: int | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Decoder:
    """The whole model on one device; `seed` None leaves its values undefined.

    `vocab_size` overrides the architecture's. Raises ValueError when neither is known or the
    architecture cannot be built.
    """
    size = vocab_size if vocab_size is not None else architecture.vocab_size
    if size is None:
        raise ValueError("architecture.vocab_size is not set: give the tokenizer's size")
    with torch.device("meta"):
        model = Decoder(architecture, size)
    if torch.device(device).type == "meta":
        return model.to(dtype)
    model = model.to(dtype).to_empty(device=device)
    if seed is not None:
        initialise_module(model, architecture, seed)
    return model


@torch.no_grad()
def initialise_module(
    module: nn.Module, architecture: Architecture, seed: int, prefix: str = ""
) -> None:
    """Fill whole (unsplit) parameters of a module that stands at `prefix` of the model,
    e.g. `layers.3.`."""
    for name, parameter in module.named_parameters():
        parameter.copy_(initialise(prefix + name, tuple(parameter.shape), architecture, seed))
