"""What a training imports at its start, imported with the entry point.

DeepSpeed and torch import much of themselves at first use: DeepSpeed's check of optimizers alone
pulls in torch's compiler, ten seconds on a busy core. Here it is imported with the module that a
node's parent preloads, so that forked ranks find it. No operator runs and no thread starts.
"""

from __future__ import annotations

import importlib

MODULES = (
    "torch._dynamo",
    "torch._inductor.compile_fx",
    "deepspeed.pipe",
    "deepspeed.runtime.pipe.engine",
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "deepspeed.runtime.zero.stage_1_and_2",
    "deepspeed.runtime.zero.stage3",
    "tokenizers",
    "safetensors.torch",
)

for _name in MODULES:
    importlib.import_module(_name)
