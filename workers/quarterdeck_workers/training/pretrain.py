"""`pretrain`: from a run's order to a trained, registered model."""

from __future__ import annotations

import gc

import torch.distributed as dist

from quarterdeck.specs.kinds import PretrainSpec
from quarterdeck_workers.rank.context import RankContext
from quarterdeck_workers.training import preload  # noqa: F401  (so that forks find it)
from quarterdeck_workers.training.inputs import open_inputs
from quarterdeck_workers.training.loop import train
from quarterdeck_workers.training.publish import publish
from quarterdeck_workers.training.session import open_session


def main(context: RankContext) -> None:
    """Train as `context.order` says, from its `resume` if there is one.

    Returns early, without a model, once a stop request has been honoured. Raises ValueError for
    an impossible order, WrongData, Diverged, CorruptCheckpoint, SaveFailed for the last save.
    """
    context.phase("loading data")
    spec = PretrainSpec.model_validate(context.order.spec)
    inputs = open_inputs(context, spec)
    session = open_session(context, spec, inputs)
    # What lives until the end would be walked by every collection in every step.
    gc.freeze()
    try:
        manifest = train(session)
        if manifest is not None:
            publish(session, manifest, inputs)
        if dist.is_initialized():
            dist.barrier()
    finally:
        gc.unfreeze()
        if dist.is_initialized():
            dist.destroy_process_group()
