"""Write a checkpoint: every rank its pieces, then the index, then the manifest."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors import SafetensorError

from quarterdeck.artifacts import ArtifactStore, DiskFull
from quarterdeck.specs.beats import CheckpointManifest, FileEntry
from quarterdeck_workers.checkpoint.errors import SaveFailed
from quarterdeck_workers.checkpoint.format import (
    INDEX,
    MANIFEST,
    Index,
    Piece,
    index_to_json,
    merge,
    write_pieces,
)


@dataclass(frozen=True)
class Progress:
    """Where the training stands after `step` steps."""

    step: int
    epoch: int
    sample_index: int
    tokens: int
    loss: float | None
    layout: dict[str, int]
    state: dict[str, Any]


def gather_objects(value: Any) -> list[Any]:
    """Every rank's value, on every rank. Collective."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def save(
    store: ArtifactStore,
    path: str,
    pieces: Callable[[], Iterable[tuple[str, Piece]]],
    progress: Progress,
    *,
    rank: int,
    scratch: Path,
) -> CheckpointManifest:
    """Write all ranks' pieces below `path` of the store. Collective.

    `pieces` answers this rank's (kind, piece) pairs and may be collective itself. The manifest is
    written last, by rank 0, after every file is durable; all ranks get it. Raises SaveFailed on
    every rank alike when any of them could not write; what had been written is removed.
    """
    started = time.monotonic()
    by_kind: dict[str, list[Piece]] = {}
    for kind, piece in pieces():
        by_kind.setdefault(kind, []).append(piece)
    problem, full = "", False
    index: Index = {}
    entries: list[FileEntry] = []
    try:
        index, entries = _write_own(store, path, by_kind, rank, scratch)
    except (OSError, ValueError, SafetensorError) as error:
        problem, full = f"{type(error).__name__}: {error}", _is_full(error)
    reports = gather_objects((problem, full, index, entries))
    _raise_if_any(store, path, progress.step, reports, rank)
    manifest: CheckpointManifest | None = None
    if rank == 0:
        try:
            files = [entry for report in reports for entry in report[3]]
            manifest = _finish(store, path, merge([r[2] for r in reports]), files, progress,
                               time.monotonic() - started)  # fmt: skip
        except (OSError, ValueError) as error:
            problem, full = f"{type(error).__name__}: {error}", _is_full(error)
    reports = gather_objects((problem, full, manifest))
    _raise_if_any(store, path, progress.step, reports, rank)
    written = reports[0][2]
    assert isinstance(written, CheckpointManifest)
    return written


def _write_own(
    store: ArtifactStore, path: str, by_kind: dict[str, list[Piece]], rank: int, scratch: Path
) -> tuple[Index, list[FileEntry]]:
    """Write this rank's files, on the store's own file system where it is local."""
    local = store.local_path(f"{path}/.writing-{rank:05d}")
    folder = local if local is not None else scratch / f"checkpoint-{rank:05d}"
    index: Index = {}
    entries: list[FileEntry] = []
    try:
        for kind, pieces in by_kind.items():
            addresses = write_pieces(folder, kind, rank, pieces)
            index[kind] = addresses
            file = next(iter(addresses.values()))[0].file.partition("#")[0]
            stored = store.put_file(folder / file, f"{path}/{file}", move=True)
            entries.append(stored.model_copy(update={"path": file}))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return index, entries


def _finish(
    store: ArtifactStore, path: str, index: Index, files: list[FileEntry], progress: Progress,
    seconds: float,
) -> CheckpointManifest:  # fmt: skip
    entry = store.put_bytes(index_to_json(index), f"{path}/{INDEX}")
    files = [*files, entry.model_copy(update={"path": INDEX})]
    manifest = CheckpointManifest(
        step=progress.step, epoch=progress.epoch, uri=store.uri_of(path),
        files=sorted(files, key=lambda file: file.path), layout=progress.layout,
        sample_index=progress.sample_index, loss=progress.loss, tokens=progress.tokens,
        save_seconds=seconds, state=progress.state,
    )  # fmt: skip
    store.put_bytes(manifest.model_dump_json(indent=1).encode(), f"{path}/{MANIFEST}")
    return manifest


def _raise_if_any(
    store: ArtifactStore, path: str, step: int, reports: list[Any], rank: int
) -> None:
    problems = {index: report[0] for index, report in enumerate(reports) if report[0]}
    if not problems:
        return
    if rank == 0:
        store.delete_prefix(path)
    raise SaveFailed(step, problems, disk_full=any(report[1] for report in reports))


def _is_full(error: BaseException) -> bool:
    if isinstance(error, SafetensorError):  # it carries the operating system's text alone
        return os.strerror(errno.ENOSPC) in str(error)
    return isinstance(error, DiskFull) or (
        isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    )
