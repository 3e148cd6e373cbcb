"""A model's files on this machine: where they lie, else a copy that all replicas here share."""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from quarterdeck.artifacts.store import ArtifactStore
from quarterdeck.specs.protocol import ResolvedAsset, WeightsOrder
from quarterdeck.specs.warming import WEIGHTS, can_be_cached
from quarterdeck_workers.engine.model_cache import (
    bytes_below,
    copy_folder,
    locked,
    make_room,
    open_lock,
    unfinished,
    warm,
)
from quarterdeck_workers.engine.start_progress import StartProgress

_PIECE = 8 * 2**20
_LOOK_SECONDS = 0.5


def local_folder(
    asset: ResolvedAsset, options: dict[str, object], workdir: Path, progress: StartProgress
) -> Path:
    """The model's folder: as it is on a local file system, else this node's copy by its digest.

    The copy is made once, whole or not at all, and lies beside the runs' folders, whose parent
    `workdir` is in. A version without a digest is copied for this run alone. Raises
    FileNotFoundError, and what the store raises.
    """
    store = ArtifactStore(asset.uri, options)
    if store.root is not None:
        if not store.root.is_dir():
            raise FileNotFoundError(f"model folder {asset.uri}: is not on this node's file system")
        return store.root
    if not can_be_cached(asset.digest):
        return _fetch(store, workdir / "model", progress)
    target = copy_folder(workdir.parent.parent, asset.digest)
    lock = open_lock(target)
    part, total = unfinished(target), 0
    while True:
        # Shared as long as this process lives, so that nobody makes room of what it reads.
        if locked(lock, fcntl.LOCK_SH) and target.is_dir():
            os.utime(target)  # when it was last wanted
            return target
        if locked(lock, fcntl.LOCK_EX):
            if not target.is_dir():
                shutil.rmtree(part, ignore_errors=True)
                make_room(target.parent, sum(store.sizes().values()))
                _fetch(store, part, progress)
                part.rename(target)
            continue
        # Another replica, or `models warm`, makes the same copy.
        total = total or sum(store.sizes().values())
        progress.bytes("fetch", bytes_below(part), total)
        time.sleep(_LOOK_SECONDS)


def bring_ahead(
    order: WeightsOrder, home: Path, tell: Callable[[int], None], stopped: Callable[[], bool]
) -> bool:
    """Bring a model's copy to this node before a replica asks for it; whether it was there.

    `home` is the folder of this node's part of the platform. A model on a file system of this
    node is read where it lies: then only the presence of its files is checked. Raises what
    `model_cache.warm` does.
    """
    store = ArtifactStore(order.model.uri, order.artifacts_options)
    if store.root is None:
        return warm(store, order.files, copy_folder(home, order.model.digest), tell, stopped)
    store.verify_files(store.uri, order.files, digests=False)
    return True


def _fetch(store: ArtifactStore, target: Path, progress: StartProgress) -> Path:
    total = sum(store.sizes().values())
    progress.bytes("fetch", 0, total)
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_LOOK_SECONDS):
            progress.bytes("fetch", bytes_below(target), total)

    watcher = threading.Thread(target=watch, name="fetch-progress", daemon=True)
    watcher.start()
    try:
        store.get_folder("", target)
    finally:
        over.set()
        watcher.join()
    return target


def read_ahead(
    folder: Path, tell: Callable[[int, int], None], over: threading.Event | None = None
) -> int:
    """Read the weights once, in order, so that loading finds them in the page cache; bytes read.

    One stream is what disks and network file systems are quickest at, and its bytes tell how far
    the loading is. `tell(done, total)` hears of it; nothing is read where the files would not fit
    into the memory that is free, or once `over` is set.
    """
    files = sorted(file for suffix in WEIGHTS for file in folder.glob(f"*{suffix}"))
    total = sum(file.stat().st_size for file in files)
    if total > _available() // 2:
        return 0
    done = 0
    for file in files:
        with file.open("rb", buffering=0) as stream:
            while piece := stream.read(_PIECE):
                done += len(piece)
                tell(done, total)
                if over is not None and over.is_set():
                    return done
    return done


def _available() -> int:
    """Bytes of memory that programs could still get; 0 where the kernel does not say."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 0
