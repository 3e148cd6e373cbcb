"""Between parameters of this rank and pieces of whole tensors in Hugging Face's form."""

from __future__ import annotations

from collections.abc import Iterator
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
from quarterdeck_workers.training.model import NAME, named_parameters
from quarterdeck_workers.training.rounds import OUTER_MOMENTUM, Rounds


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


def export_pieces(
    module: nn.Module,
    optimizer: Any,
    architecture: Architecture,
    layout: Layout,
    data_group: dist.ProcessGroup | None,
    *,
    rounds: Rounds | None = None,
) -> Iterator[tuple[str, Piece]]:
    """This rank's (kind, piece) pairs; together all ranks give each element exactly once.

    Collective over the data-parallel group; with `rounds` its ranks hold everything whole, and
    the outer optimizer's state is exported too. Parameters that several ranks hold whole come from
    the first of them: of the tensor group, or of the stages that share a tied one.
    """
    parameters = named_parameters(module)
    replicated = rounds is not None
    states = zero_state.collect(parameters, optimizer, data_group, replicated=replicated)
    for parameter, state in zip(parameters, states, strict=True):
        shard = shard_of(parameter)
        first = shard.copy == 0 if shard.dimension is not None else layout.slice == 0
        if state is None or not first:
            continue
        if getattr(parameter, "ds_pipe_replicated", False):
            continue
        where = place(parameter, architecture)
        start, _ = corner(where, shard)
        outer = {} if rounds is None else rounds.checkpoint_state(parameter)
        for kind, tensor in (state | outer).items():
            data = tensor.t() if where.transpose else tensor
            yield kind, Piece(where.name, where.shape, start, data)


def load_pieces(
    module: nn.Module,
    optimizer: Any,
    architecture: Architecture,
    reader: CheckpointReader,
    *,
    rounds: Rounds | None = None,
) -> None:
    """Set this rank's weights and moments, and the state of `rounds`, from a checkpoint of any
    layout.

    Raises CorruptCheckpoint when the checkpoint lacks something; outer momentum may be missing.
    """
    zero_state.prepare_moments(optimizer, reader.manifest.step)
    outer_names = set(reader.names(OUTER_MOMENTUM)) if rounds is not None else set()
    outer: dict[int, Tensor] = {}
    for parameter in named_parameters(module):
        where = place(parameter, architecture)
        start, extent = corner(where, shard_of(parameter))
        kinds = KINDS if parameter.requires_grad else KINDS[:1]

        def read(kind: str) -> Tensor:
            value = reader.read(kind, where.name, start, extent)  # noqa: B023  (called below)
            return value.t().contiguous() if where.transpose else value  # noqa: B023

        state = {kind: read(kind).to(parameter.device) for kind in kinds}
        zero_state.restore(parameter, state, optimizer)
        if where.name in outer_names and parameter.requires_grad:
            outer[id(parameter)] = read(OUTER_MOMENTUM).to(parameter.device)
    if rounds is not None:
        rounds.resumed(outer)
