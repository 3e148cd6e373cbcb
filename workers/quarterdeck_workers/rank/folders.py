"""Checkpoint folders of users' programs: kept in the store, given back to the next attempt.

A program's checkpoint is its own business inside: a folder of files. It exists once its manifest
is registered, like any other.
"""

from __future__ import annotations

import time
from pathlib import Path

from quarterdeck.artifacts import ArtifactStore
from quarterdeck.specs.beats import CheckpointManifest
from quarterdeck.specs.protocol import ResumeFrom, RunOrder

RESUME_DIR = "QUARTERDECK_RESUME_DIR"
RESUME_STEP = "QUARTERDECK_RESUME_STEP"


def keep_folder(order: RunOrder, step: int, folder: Path) -> CheckpointManifest:
    """Copy `folder` to the store under {job}/{epoch}/{step}; the manifest to register.

    Raises DataError where the folder is missing or empty, and what the store raises (DiskFull,
    OSError): then nothing of it counts.
    """
    from quarterdeck_workers.rank.errors import DataError

    if not folder.is_dir():
        raise DataError(f"report(checkpoint={str(folder)!r}): there is no such folder")
    started = time.monotonic()
    store = ArtifactStore(order.artifacts_uri, order.artifacts_options)
    path = f"checkpoints/{order.owner_id}/{order.epoch}/{step}"
    files = store.put_folder(folder, path)
    if not files:
        raise DataError(f"report(checkpoint={str(folder)!r}): the folder is empty")
    return CheckpointManifest(
        step=step, epoch=order.epoch, uri=store.uri_of(path), files=files,
        save_seconds=time.monotonic() - started,
    )  # fmt: skip


def restore_folder(order: RunOrder, resume: ResumeFrom, target: Path) -> None:
    """Copy a kept folder to `target` and check it against its manifest. Raises OSError and what
    the store raises for missing or damaged files."""
    store = ArtifactStore(order.artifacts_uri, order.artifacts_options)
    store.verify(resume.manifest)
    store.get_folder(store.path_of(resume.uri), target)
