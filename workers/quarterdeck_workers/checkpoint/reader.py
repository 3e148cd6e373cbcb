"""Read any slice of any tensor of a checkpoint, whatever layout wrote it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from quarterdeck.artifacts import ArtifactStore
from quarterdeck.artifacts.digests import file_digest
from quarterdeck.specs.beats import CheckpointManifest
from quarterdeck_workers.checkpoint.errors import CorruptCheckpoint
from quarterdeck_workers.checkpoint.format import INDEX, Index, PieceAddress, index_from_json


class CheckpointReader:
    """An open checkpoint. `cache` is a folder for files of a remote store.

    Files are opened when first needed; those of a remote store are fetched then. Use as a
    context manager, or call `close`.
    """

    def __init__(self, store: ArtifactStore, manifest: CheckpointManifest, cache: Path) -> None:
        self.manifest = manifest
        self._store = store.folder(store.path_of(manifest.uri))
        self._cache = cache
        self._open: dict[str, Any] = {}
        self._index: Index | None = None

    def __enter__(self) -> CheckpointReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()

    def close(self) -> None:
        """Forget the open files."""
        self._open.clear()

    @property
    def index(self) -> Index:
        """kind → name → pieces. Raises CorruptCheckpoint when it cannot be read."""
        if self._index is None:
            try:
                self._index = index_from_json(self._path(INDEX).read_bytes())
            except (OSError, ValueError, KeyError) as error:
                raise CorruptCheckpoint(
                    f"{self.manifest.uri}/{INDEX} cannot be read: {error}; resume from another step"
                ) from error
        return self._index

    def check(self, part: int = 0, parts: int = 1) -> dict[str, str]:
        """Compare sizes and SHA-256 of every `parts`-th file; what is wrong, by file.

        Ranks share the work: each checks its part.
        """
        wrong: dict[str, str] = {}
        for entry in sorted(self.manifest.files, key=lambda file: file.path)[part::parts]:
            try:
                path = self._path(entry.path)
                size = path.stat().st_size
            except OSError:
                wrong[entry.path] = "missing"
                continue
            if size != entry.size:
                wrong[entry.path] = f"{size} bytes, not {entry.size}"
            elif (digest := file_digest(path)) != entry.sha256:
                wrong[entry.path] = f"sha256 {digest}, not {entry.sha256}"
        return wrong

    def names(self, kind: str) -> list[str]:
        """The whole tensors of a kind."""
        return sorted(self.index.get(kind, {}))

    def shape(self, kind: str, name: str) -> tuple[int, ...]:
        """The whole shape of a tensor. Raises CorruptCheckpoint when it is not there."""
        return self._pieces(kind, name)[0].shape

    def read(
        self, kind: str, name: str,
        start: Sequence[int] | None = None, extent: Sequence[int] | None = None,
    ) -> Tensor:  # fmt: skip
        """The fp32 hyper-rectangle from `start` with `extent` (both None: the whole tensor).

        Raises CorruptCheckpoint when the pieces do not cover it.
        """
        pieces = self._pieces(kind, name)
        whole = pieces[0].shape
        begin = tuple(start) if start is not None else (0,) * len(whole)
        size = tuple(extent) if extent is not None else whole
        result = torch.empty(size, dtype=torch.float32)
        covered = 0
        for piece in pieces:
            low = [max(a, b) for a, b in zip(begin, piece.start, strict=True)]
            high = [
                min(a + n, b + m)
                for a, n, b, m in zip(begin, size, piece.start, piece.extent, strict=True)
            ]
            if any(a >= b for a, b in zip(low, high, strict=True)):
                continue
            source = tuple(
                slice(a - s, b - s) for a, b, s in zip(low, high, piece.start, strict=True)
            )
            target = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, begin, strict=True))
            result[target] = self._slice(piece, source)
            covered += prod(b - a for a, b in zip(low, high, strict=True))
        if covered != result.numel():
            raise CorruptCheckpoint(
                f"{self.manifest.uri}: {kind} of {name} covers {covered} of {result.numel()} "
                f"elements from {begin}; resume from another step"
            )
        return result

    def _pieces(self, kind: str, name: str) -> list[PieceAddress]:
        pieces = self.index.get(kind, {}).get(name)
        if not pieces:
            raise CorruptCheckpoint(
                f"{self.manifest.uri} has no {kind} of {name}: it belongs to another architecture "
                "or is incomplete"
            )
        return pieces

    def _slice(self, piece: PieceAddress, where: tuple[slice, ...]) -> Tensor:
        file, _, key = piece.file.partition("#")
        try:
            handle = self._open.get(file)
            if handle is None:
                handle = self._open[file] = safe_open(self._path(file), framework="pt")
            value: Tensor = handle.get_slice(key)[where] if where else handle.get_tensor(key)
        except (OSError, SafetensorError) as error:
            raise CorruptCheckpoint(
                f"{self.manifest.uri}/{file} cannot be read: {error}; resume from another step"
            ) from error
        return value

    def _path(self, file: str) -> Path:
        """The file on this machine, fetched when the store is remote."""
        local = self._store.local_path(file)
        if local is not None:
            return local
        target = self._cache / file
        if not target.exists():
            with suppress(FileExistsError):
                self._store.get_file(file, target)
        return target
