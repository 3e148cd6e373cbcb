"""Versions of datasets and tokenizers on this machine, and new ones into the artifact store."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from quarterdeck.artifacts import ArtifactStore, folder_digest
from quarterdeck.specs.beats import FileEntry, OutputAsset
from quarterdeck.specs.protocol import ResolvedAsset, RunOrder
from quarterdeck_workers.data.dataset import Manifest, scan
from quarterdeck_workers.data.errors import DataProblem

FILES, TOKENS = "files", "tokens"
"""Formats of a dataset version: files as they are, or token shards."""


def store_of(order: RunOrder) -> ArtifactStore:
    """The installation's artifact store."""
    return ArtifactStore(order.artifacts_uri, order.artifacts_options)


def folder_of(asset: ResolvedAsset, store: ArtifactStore, workdir: Path) -> Path:
    """A version's folder on this machine: where it lies on a local store, else a copy.

    Raises DataProblem when its files are gone.
    """
    path = store.path_of(asset.uri)
    local = store.local_path(path)
    if local is None:
        local = workdir / "inputs" / path
        store.get_folder(path, local)
    if not local.is_dir():
        raise DataProblem(
            f"{asset.kind} {asset.name}@{asset.version} has no files at {asset.uri}: make the "
            "version again"
        )
    return local


def manifest_of(asset: ResolvedAsset, store: ArtifactStore, workdir: Path) -> Manifest:
    """The files of a dataset version; a plain URI, which nobody registered, is scanned now.

    Raises DataProblem for token shards, and when the manifest is gone or changed.
    """
    form = asset.metadata.get("format")
    if form is None:
        return scan(asset.uri)
    if form != FILES:
        raise DataProblem(
            f"dataset {asset.name}@{asset.version} holds {form}, not files: name the dataset it "
            "was made from"
        )
    path = str(asset.metadata["manifest"])
    target = workdir / "inputs" / path
    try:
        store.get_file(path, target)
    except FileNotFoundError as error:
        raise DataProblem(
            f"the manifest of dataset {asset.name}@{asset.version} is gone from the artifact "
            "store: register the dataset again"
        ) from error
    return Manifest.load(target)


def output_path(order: RunOrder, kind: str) -> str:
    """Where a run's output of this kind lies in the store."""
    return f"assets/{kind}/{order.owner_name}/{order.run_id}"


def output_asset(
    order: RunOrder,
    store: ArtifactStore,
    kind: Literal["dataset", "tokenizer"],
    files: Iterable[FileEntry],
    metadata: dict[str, Any],
) -> OutputAsset:
    """The version to publish for files that lie at `output_path`; entries relative to it."""
    entries = sorted(files, key=lambda entry: entry.path)
    return OutputAsset(
        kind=kind,
        name=order.owner_name,
        digest=folder_digest(entries),
        uri=store.uri_of(output_path(order, kind)),
        size=sum(entry.size for entry in entries),
        files=entries,
        metadata=metadata,
    )
