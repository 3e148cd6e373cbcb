"""Between parameters of this rank and pieces of whole tensors in Hugging Face's form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from quarterdeck.specs.architecture import Architecture
from quarterdeck_workers.checkpoint.format import KINDS, Piece
from quarterdeck_workers.checkpoint.reader import CheckpointReader
from quarterdeck_workers.models.hugging_face import Placement, placement
from quarterdeck_workers.parallel.layout import Layout
from quarterdeck_workers.parallel.sharding import Shard, shard_of
from quarterdeck_workers.training import zero_state
from quarterdeck_workers.training.model import NAME


def place(parameter: nn.Parameter, architecture: Architecture) -> Placement:
    """Where the whole of the parameter lies in Hugging Face's form."""
    return placement(getattr(parameter, NAME), shard_of(parameter).full_shape, architecture)


def corner(where: Placement, shard: Shard) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(start, extent) of this rank's part inside the Hugging Face tensor."""
    offsets = [0] * len(shard.full_shape)
    if shard.dimension is not None:
        offsets[shard.dimension] = shard.start
    extent = shard.shape
    if where.transpose:
        offsets, extent = offsets[::-1], extent[::-1]
    return tuple(s + o for s, o in zip(where.start, offsets, strict=True)), extent


def named_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Every parameter of this rank once, in an order that all data-parallel ranks share."""
    seen: dict[int, nn.Parameter] = {id(p): p for p in module.parameters()}
    return sorted(seen.values(), key=lambda p: str(getattr(p, NAME)))


def export_pieces(
    module: nn.Module,
    optimizer: Any,
    architecture: Architecture,
    layout: Layout,
    data_group: dist.ProcessGroup | None,
    *,
    kinds: Sequence[str] = KINDS,
) -> Iterator[tuple[str, Piece]]:
    """This rank's (kind, piece) pairs; together all ranks give each element exactly once.

    Collective over the data-parallel group. Parameters that several ranks hold whole come from
    the first of them: of the tensor group, or of the stages that share a tied one.
    """
    parameters = named_parameters(module)
    states = zero_state.collect(parameters, optimizer, data_group)
    for parameter, state in zip(parameters, states, strict=True):
        shard = shard_of(parameter)
        first = shard.copy == 0 if shard.dimension is not None else layout.slice == 0
        if state is None or not first:
            continue
        if getattr(parameter, "ds_pipe_replicated", False):
            continue
        where = place(parameter, architecture)
        start, _ = corner(where, shard)
        for kind in kinds:
            if kind in state:
                tensor = state[kind]
                data = tensor.t() if where.transpose else tensor
                yield kind, Piece(where.name, where.shape, start, data)


def load_pieces(
    module: nn.Module, optimizer: Any, architecture: Architecture, reader: CheckpointReader
) -> None:
    """Set this rank's weights and moments from a checkpoint of any layout.

    Raises CorruptCheckpoint when the checkpoint lacks something.
    """
    zero_state.prepare_moments(optimizer, reader.manifest.step)
    for parameter in named_parameters(module):
        where = place(parameter, architecture)
        start, extent = corner(where, shard_of(parameter))
        kinds = KINDS if parameter.requires_grad else KINDS[:1]

        def read(kind: str) -> Tensor:
            value = reader.read(kind, where.name, start, extent)  # noqa: B023  (called below)
            return value.t().contiguous() if where.transpose else value  # noqa: B023

        state = {kind: read(kind).to(parameter.device) for kind in kinds}
        zero_state.restore(parameter, state, optimizer)
