"""`checkpoints: {path}`: a folder of the program's that attempts hand on, as checkpoints.

Rank 0's node copies it when the attempt has ended, and every few minutes while it runs, if it has
changed; a copy during which something changed does not count. Each copy is registered like any
other checkpoint, with a number of its own for a step. The next attempt finds the last registered
one in the same place, on every node.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from quarterdeck.artifacts import ArtifactStore
from quarterdeck.specs.beats import CheckpointManifest
from quarterdeck.specs.protocol import RunOrder
from quarterdeck_workers.rank.code import start_folder
from quarterdeck_workers.rank.folders import keep_folder, restore_folder

EVERY_SECONDS = 300.0
_State = dict[str, tuple[int, int]]


def kept_folder(order: RunOrder, workdir: Path) -> Path | None:
    """The folder that is kept; None where the job names none."""
    policy = order.spec.get("checkpoints")
    path = policy.get("path") if isinstance(policy, Mapping) else None
    if order.kind != "command" or not path:
        return None
    return start_folder(order, workdir) / str(path)


def restore_kept(order: RunOrder, workdir: Path) -> None:
    """Put the last registered copy where the program looks for it. A folder of the machine's own
    that holds something already is left alone. Raises what `restore_folder` raises."""
    folder = kept_folder(order, workdir)
    if folder is None or order.resume is None:
        return
    if not folder.is_relative_to(workdir) and folder.is_dir() and any(folder.iterdir()):
        return
    shutil.rmtree(folder, ignore_errors=True)
    restore_folder(order, order.resume, folder)


class KeptFolder:
    """One attempt's folder on rank 0's node."""

    def __init__(self, order: RunOrder, folder: Path) -> None:
        self._order = order
        self._folder = folder
        self._kept = _state(folder)
        self._step = order.resume.step if order.resume is not None else 0

    def keep(self) -> CheckpointManifest | None:
        """Copy it; the manifest to register, None where nothing is new or it changed meanwhile.

        Raises what the store raises (DiskFull, OSError).
        """
        before = _state(self._folder)
        if not before or before == self._kept:
            return None
        manifest = keep_folder(self._order, self._step + 1, self._folder)
        if _state(self._folder) != before:
            store = ArtifactStore(self._order.artifacts_uri, self._order.artifacts_options)
            store.delete_prefix(store.path_of(manifest.uri))
            return None
        self._step += 1
        self._kept = before
        return manifest


def _state(folder: Path) -> _State:
    found: _State = {}
    for file in folder.rglob("*"):
        try:
            if file.is_file():
                about = file.stat()
                name = file.relative_to(folder).as_posix()
                found[name] = about.st_size, about.st_mtime_ns
        except OSError:
            continue  # gone meanwhile: the state differs, as it should
    return found
