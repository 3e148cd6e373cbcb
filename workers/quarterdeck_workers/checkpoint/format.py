"""The durable form of a training state: safetensors of pieces of whole tensors.

A checkpoint is a folder. For each kind of state (`weights`, `exp_avg`, `exp_avg_sq`, and
`outer_momentum` where there is one; all fp32) each rank that owns something writes
`KIND/rank-00003.safetensors`, whose tensors carry Hugging Face's parameter names and orientation.
A file's header says under `pieces`, as JSON, which hyper-rectangle of which whole tensor each one
is: `{name: {"shape": […], "start": […]}}`. `index.json` gathers the same for the whole folder.
Nothing in it depends on the layout that wrote it, so any other layout can read it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

KINDS = ("weights", "exp_avg", "exp_avg_sq")
INDEX = "index.json"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Piece:
    """A hyper-rectangle of a whole tensor: `data` begins at `start` in a tensor of `shape`."""

    name: str
    shape: tuple[int, ...]
    start: tuple[int, ...]
    data: Tensor


@dataclass(frozen=True)
class PieceAddress:
    """Where a piece lies: in `file` (relative to the checkpoint), covering start … + extent."""

    file: str
    shape: tuple[int, ...]
    start: tuple[int, ...]
    extent: tuple[int, ...]


Index = dict[str, dict[str, list[PieceAddress]]]
"""kind → Hugging Face name → pieces."""


def file_name(kind: str, rank: int) -> str:
    """The path of a rank's file in the checkpoint."""
    return f"{kind}/rank-{rank:05d}.safetensors"


def write_pieces(
    folder: Path, kind: str, rank: int, pieces: list[Piece]
) -> dict[str, list[PieceAddress]]:
    """Write one rank's file of one kind below `folder`; answers its part of the index.

    Raises OSError when the disk is full, ValueError when a name appears twice (a rank owns one
    piece of a tensor at most, or they would overwrite each other).
    """
    file = file_name(kind, rank)
    tensors: dict[str, Tensor] = {}
    header: dict[str, dict[str, list[int]]] = {}
    addresses: dict[str, list[PieceAddress]] = {}
    for piece in pieces:
        key = _key(piece, tensors)
        tensors[key] = piece.data.detach().to("cpu", torch.float32).contiguous()
        header[key] = {"shape": list(piece.shape), "start": list(piece.start)}
        address = PieceAddress(f"{file}#{key}", piece.shape, piece.start, tuple(piece.data.shape))
        addresses.setdefault(piece.name, []).append(address)
    target = folder / file
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, target, metadata={"pieces": json.dumps(header), "kind": kind})
    return addresses


def _key(piece: Piece, taken: Mapping[str, Tensor]) -> str:
    """The tensor's name in the file: its own, or with its start where a rank has several pieces
    (query, key and value of a fused projection)."""
    if piece.name not in taken:
        return piece.name
    key = f"{piece.name}@{','.join(map(str, piece.start))}"
    if key in taken:
        raise ValueError(f"{piece.name} at {piece.start} is written twice by one rank")
    return key


def index_to_json(index: Index) -> bytes:
    """The bytes of `index.json`."""
    return json.dumps(
        {
            kind: {
                name: [
                    {"file": p.file, "shape": p.shape, "start": p.start, "extent": p.extent}
                    for p in pieces
                ]
                for name, pieces in sorted(names.items())
            }
            for kind, names in index.items()
        },
        indent=1,
    ).encode()


def index_from_json(content: bytes) -> Index:
    """Read `index.json`. Raises ValueError (KeyError) when it is not one."""
    return {
        kind: {
            name: [
                PieceAddress(p["file"], tuple(p["shape"]), tuple(p["start"]), tuple(p["extent"]))
                for p in pieces
            ]
            for name, pieces in names.items()
        }
        for kind, names in json.loads(content).items()
    }


def merge(indexes: list[Index]) -> Index:
    """The index of all ranks' files."""
    merged: Index = {}
    for index in indexes:
        for kind, names in index.items():
            for name, pieces in names.items():
                merged.setdefault(kind, {}).setdefault(name, []).extend(pieces)
    return merged
