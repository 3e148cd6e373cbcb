"""Architectures by name: the published shapes of known models, kept as data beside this file.

Each file of `presets/` is one family: `common` holds the fields that its `presets` share.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from types import MappingProxyType

from ruamel.yaml import YAML

from quarterdeck.specs.architecture import Architecture


@cache
def _catalogue() -> Mapping[str, Architecture]:
    folder = files("quarterdeck.specs").joinpath("presets")
    found: dict[str, Architecture] = {}
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if not file.name.endswith(".yaml"):
            continue
        family = YAML(typ="safe", pure=True).load(file.read_text(encoding="utf-8"))
        for name, fields in family["presets"].items():
            found[name] = Architecture(**{**family["common"], **fields})
    return MappingProxyType(found)


def preset_names() -> tuple[str, ...]:
    """Every preset's name, family by family in the order of their sizes."""
    return tuple(_catalogue())


def load_preset(name: str) -> Architecture:
    """The architecture called `name`, e.g. `llama-3-8b`.

    `vocab_size` is the published one, or None for the small trainable presets, which take the
    tokenizer's. Raises ValueError, naming the nearest presets, when there is none.
    """
    catalogue = _catalogue()
    if name in catalogue:
        return catalogue[name]
    near = get_close_matches(name.lower(), catalogue, n=3, cutoff=0.5)
    remedy = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(catalogue)}"
    raise ValueError(
        f"architecture {name!r} is not a preset: {remedy} "
        "(or write the fields of a Hugging Face config.json)"
    )
