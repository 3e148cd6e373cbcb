"""A model's files on this machine: where they lie, else a copy that all replicas here share."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from quarterdeck.artifacts.store import ArtifactStore
from quarterdeck.specs.protocol import ResolvedAsset
from quarterdeck_workers.engine.start_progress import StartProgress

CACHE = "models"
FREE_SHARE = 0.1
"""Of the disk, to be left free by copies of models."""
_PIECE = 8 * 2**20
_LOOK_SECONDS = 0.5
_WEIGHTS = ("*.safetensors", "*.bin", "*.gguf")
_PLAIN = re.compile(r"[^A-Za-z0-9._-]")


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
    if not re.fullmatch(r"[A-Za-z0-9:._-]{16,}", asset.digest):
        return _fetch(store, workdir / "model", progress)
    target = workdir.parent.parent / CACHE / _PLAIN.sub("-", asset.digest)
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(f"{target}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    while True:
        # Shared as long as this process lives, so that nobody makes room of what it reads.
        fcntl.flock(lock, fcntl.LOCK_SH)
        if target.is_dir():
            os.utime(target)  # when it was last wanted
            return target
        fcntl.flock(lock, fcntl.LOCK_EX)  # of two replicas one fetches, the other waits
        if not target.is_dir():
            unfinished = Path(f"{target}.part")
            shutil.rmtree(unfinished, ignore_errors=True)
            make_room(target.parent, sum(store.sizes().values()))
            _fetch(store, unfinished, progress)
            unfinished.rename(target)


def make_room(cache: Path, wanted: int) -> list[str]:
    """Delete copies that nobody uses, the longest unused first, until `wanted` bytes fit and a
    share of the disk stays free; the names of those deleted."""
    gone = []
    copies = [folder for folder in cache.iterdir() if folder.is_dir() and folder.suffix != ".part"]
    for folder in sorted(copies, key=lambda folder: folder.stat().st_mtime):
        disk = shutil.disk_usage(cache)
        if disk.free - wanted > disk.total * FREE_SHARE:
            break
        lock = os.open(f"{folder}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        else:
            shutil.rmtree(folder, ignore_errors=True)
            gone.append(folder.name)
        finally:
            os.close(lock)
    return gone


def _fetch(store: ArtifactStore, target: Path, progress: StartProgress) -> Path:
    total = sum(store.sizes().values())
    progress.bytes("fetch", 0, total)
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_LOOK_SECONDS):
            progress.bytes("fetch", _bytes_below(target), total)

    watcher = threading.Thread(target=watch, name="fetch-progress", daemon=True)
    watcher.start()
    try:
        store.get_folder("", target)
    finally:
        over.set()
        watcher.join()
    return target


def _bytes_below(folder: Path) -> int:
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += Path(where, name).stat().st_size
    return total


def read_ahead(
    folder: Path, tell: Callable[[int, int], None], over: threading.Event | None = None
) -> int:
    """Read the weights once, in order, so that loading finds them in the page cache; bytes read.

    One stream is what disks and network file systems are quickest at, and its bytes tell how far
    the loading is. `tell(done, total)` hears of it; nothing is read where the files would not fit
    into the memory that is free, or once `over` is set.
    """
    files = sorted(file for pattern in _WEIGHTS for file in folder.glob(pattern))
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
