"""Planned activations equal what autograd keeps of our own layers."""

from __future__ import annotations

import pytest
import torch

from quarterdeck.planner.activations import layer_bytes
from quarterdeck.specs.presets import load_preset
from quarterdeck.specs.training import Precision
from quarterdeck_workers.models.decoder import DecoderLayer

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


def _kept(layer: torch.nn.Module, hidden: torch.Tensor, constants: int) -> int:
    """Bytes of distinct storages that the backward pass of `layer` keeps; `constants` of them
    (rotary tables, shared by all layers and sequences) are left out."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in layer.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(hidden)
    return sum(storage.nbytes() for storage in kept.values()) - constants


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["llama-tiny", "gpt2-tiny", "smollm2-135m", "gpt2"])
def test_layers_keep_what_is_planned(name: str, precision: Precision) -> None:
    a = load_preset(name)
    layer = DecoderLayer(a).to(DTYPES[precision])
    hidden = torch.randn(2, 128, a.hidden_size, dtype=DTYPES[precision], requires_grad=True)
    tables = 2 * 128 * a.head_size * 4 if a.position_embedding == "rope" else 0
    planned = layer_bytes(128, 2, a, precision=precision)
    assert _kept(layer, hidden, tables) == pytest.approx(planned, rel=0.01)
