"""Replacing a model's weights in place from a Hugging Face folder of the same architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open


def load_weights(model: Any, folder: Path) -> None:
    """Copy every tensor of the folder's safetensors files into the model.

    All names and shapes are checked before the first byte changes: raises ValueError naming what
    is missing, left over or of another shape; OSError where files cannot be read.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{folder} holds no .safetensors file: give a Hugging Face model folder")
    state: dict[str, torch.Tensor] = model.state_dict()
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (not a mapping)
                shapes[name] = tuple(opened.get_slice(name).get_shape())
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    missing = sorted(set(state) - set(shapes) - tied)
    foreign = sorted(set(shapes) - set(state))
    wrong = sorted(
        name for name in shapes if name in state and shapes[name] != tuple(state[name].shape)
    )
    if missing or foreign or wrong:
        raise ValueError(
            f"the weights of {folder} do not fit: missing {missing[:3]}, unknown {foreign[:3]}, "
            f"of another shape {wrong[:3]}: give a folder of the same architecture"
        )
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                state[name].copy_(opened.get_tensor(name))
