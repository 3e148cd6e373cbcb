"""From an architecture to the layers of a run: built where they are held, split, initialised.

Every layer is built without memory (on torch's meta device), split, and only then filled, one
parameter at a time, so that no rank ever holds more than its own part and one whole tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import lcm

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from quarterdeck.planner.stages import stage_boundaries
from quarterdeck.specs.architecture import Architecture
from quarterdeck_workers.models.decoder import (
    DecoderLayer,
    check_buildable,
    make_embedding,
    make_head,
    make_norm,
    make_positions,
)
from quarterdeck_workers.models.hugging_face import placement
from quarterdeck_workers.models.initialisation import initialise
from quarterdeck_workers.parallel.collectives import split_sequence
from quarterdeck_workers.parallel.columns import column_parallel
from quarterdeck_workers.parallel.groups import TensorGroup
from quarterdeck_workers.parallel.parallelize import (
    parallelize_block,
    split_embedding,
    split_head,
    sum_partial_gradients,
)
from quarterdeck_workers.parallel.sharding import mark, shard_of
from quarterdeck_workers.training.engine import LayerPlan, ModelPlan
from quarterdeck_workers.training.losses import Loss

NAME = "quarterdeck_name"
"""Attribute of a parameter: its name in the whole model, e.g. `layers.3.attention.q.weight`."""

VOCABULARY_MULTIPLE = 64
"""A tokenizer's vocabulary is padded to a multiple of this, so that the same model splits over
any usual tensor degree and resumes on another."""


def padded_vocabulary(size: int, tensor: int) -> int:
    """The vocabulary rounded up to what every tensor degree up to 64 (a power of two) divides."""
    multiple = lcm(VOCABULARY_MULTIPLE, tensor)
    return -(-size // multiple) * multiple


@dataclass(frozen=True)
class Builder:
    """Builds the layers of one model for one rank."""

    architecture: Architecture
    vocab_size: int
    group: TensorGroup
    device: torch.device
    seed: int
    freeze: tuple[str, ...] = ()

    def layer(self, prefix: str, make: Callable[[], nn.Module]) -> nn.Module:
        """A layer that stands at `prefix` (`layers.3.`): split, in memory and initialised."""
        with torch.device("meta"):
            module = make()
        # Leaving the meta device makes new parameters: what they are parts of is carried over.
        shards = {name: shard_of(parameter) for name, parameter in module.named_parameters()}
        module = module.to_empty(device=self.device)
        for name, parameter in module.named_parameters():
            self._fill(prefix + name, mark(parameter, shards[name]))
        return module

    @torch.no_grad()
    def _fill(self, name: str, parameter: nn.Parameter) -> None:
        shard = shard_of(parameter)
        whole = initialise(name, shard.full_shape, self.architecture, self.seed)
        parameter.copy_(shard.take(whole))
        setattr(parameter, NAME, name)
        theirs = placement(name, shard.full_shape, self.architecture).name
        if any(fnmatchcase(theirs, pattern) for pattern in self.freeze):
            parameter.requires_grad_(False)


class Recomputed(nn.Module):
    """A layer that keeps its input alone and runs again in the backward pass."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, value: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            result: Tensor = self.inner(value)
            return result
        again: Tensor = checkpoint(self.inner, value, use_reentrant=False)
        return again


def plan_model(
    builder: Builder,
    *,
    stages: int,
    sequence_length: int,
    recompute: bool,
    domains: Sequence[str],
) -> ModelPlan:
    """All layers and how they are dealt out to `stages`, as the planner deals them.

    Raises ValueError, naming the field, for what cannot be built or split so.
    """
    architecture, group = builder.architecture, builder.group
    check_buildable(architecture)
    layers = [*_front(builder)]
    front = len(layers)
    for index in range(architecture.num_hidden_layers):
        layers.append(LayerPlan(_decoder_layer(builder, index, recompute)))
    layers.extend(_back(builder))
    cuts = stage_boundaries(architecture, builder.vocab_size, sequence_length, stages)
    boundaries = [0, *(cut + front for cut in cuts[1:-1]), len(layers)]
    return ModelPlan(layers, boundaries, Loss(domains, group))


def _decoder_layer(builder: Builder, index: int, recompute: bool) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        def make() -> nn.Module:
            return parallelize_block(DecoderLayer(builder.architecture), builder.group)

        layer = builder.layer(f"layers.{index}.", make)
        sum_partial_gradients(layer, builder.group)
        return Recomputed(layer) if recompute else layer

    return build


def _front(builder: Builder) -> list[LayerPlan]:
    """Embedding and learned positions, ending with this rank's part of the sequence."""
    architecture, group = builder.architecture, builder.group

    def embedding() -> nn.Module:
        return builder.layer(
            "embedding.",
            lambda: split_embedding(make_embedding(architecture, builder.vocab_size), group),
        )

    def positions() -> nn.Module:
        module = make_positions(architecture)
        assert module is not None
        return module

    def then_split(module: nn.Module, value: Tensor) -> Tensor:
        return split_sequence(module(value), group)

    tied = "embedding" if architecture.tie_word_embeddings else None
    if architecture.position_embedding == "rope":
        return [LayerPlan(embedding, tied=tied, forward=then_split)]
    return [
        LayerPlan(embedding, tied=tied),
        LayerPlan(lambda: builder.layer("positions.", positions), forward=then_split),
    ]


def _back(builder: Builder) -> list[LayerPlan]:
    """Final norm and output projection."""
    architecture, group = builder.architecture, builder.group

    def norm() -> nn.Module:
        module = builder.layer("norm.", lambda: make_norm(architecture))
        sum_partial_gradients(module, group)
        return module

    def project(module: nn.Module, value: Tensor) -> Tensor:
        weight = module.weight
        assert isinstance(weight, Tensor)
        return column_parallel(value, [(weight, None)], group)[0]

    def head() -> nn.Module:
        def make() -> nn.Module:
            plain = make_head(architecture, builder.vocab_size)
            assert plain is not None
            return split_head(plain, group)

        return builder.layer("head.", make)

    if architecture.tie_word_embeddings:
        return [LayerPlan(norm), LayerPlan(_front(builder)[0].build, "embedding", forward=project)]
    return [LayerPlan(norm), LayerPlan(head, forward=project)]


def named_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Every parameter of this rank once, in an order that all data-parallel ranks share."""
    seen: dict[int, nn.Parameter] = {id(p): p for p in module.parameters()}
    return sorted(seen.values(), key=lambda p: str(getattr(p, NAME)))
