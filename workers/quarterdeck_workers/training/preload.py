"""Import, before ranks are forked, what a training would import at its start.

DeepSpeed and torch import much of themselves at first use (its check of optimizers alone pulls in
torch's compiler: ten seconds on a busy core). Importing this module does that once, in the parent;
it runs no operator and starts no thread, so forking stays safe.
"""

from __future__ import annotations

import contextlib
import gc
import importlib

MODULES = (
    "torch._dynamo",
    "torch._inductor.compile_fx",
    "torch.distributed.nn",
    "deepspeed",
    "deepspeed.pipe",
    "deepspeed.runtime.pipe.engine",
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "deepspeed.runtime.zero.stage_1_and_2",
    "deepspeed.runtime.zero.stage3",
    "transformers",
    "tokenizers",
    "safetensors.torch",
    "quarterdeck_workers.training.pretrain",
)


def preload() -> None:
    """Import everything, then keep the collector from touching it: pages stay shared."""
    for name in MODULES:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()


preload()
