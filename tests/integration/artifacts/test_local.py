"""Atomic and durable writes, and full disks, on real local file systems."""

from __future__ import annotations

import errno
import subprocess
import sys
import time
from pathlib import Path

import pytest

from quarterdeck.artifacts import ArtifactStore, DiskFull, UnsafePath
from quarterdeck.artifacts.local import disk_full_is_typed

WRITER = """
import sys
from pathlib import Path
from quarterdeck.artifacts import ArtifactStore
store = ArtifactStore(sys.argv[1])
while True:
    for fill in (b"a", b"b"):
        store.put_bytes(fill * 3_000_000, "model")
"""


def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)])
    try:
        deadline = time.monotonic() + 60
        while not store.exists("model") and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        writer.kill()
        writer.wait()
    content = store.read_bytes("model")
    assert len(content) == 3_000_000
    assert len(set(content)) == 1
    assert set(store.sizes()) == {"model"}


def test_a_file_larger_than_the_disk_is_refused_by_name(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    store.put_bytes(b"previous", "checkpoint/model")
    free = store.free_bytes()
    assert free is not None
    huge = tmp_path / "huge"
    with huge.open("wb") as stream:
        stream.truncate(free * 2)  # sparse: holds no blocks
    with pytest.raises(DiskFull) as caught:
        store.put_file(huge, "checkpoint/model")
    assert caught.value.needed == free * 2
    assert caught.value.folder == str(tmp_path / "store" / "checkpoint")
    assert store.read_bytes("checkpoint/model") == b"previous"
    assert [file.name for file in (tmp_path / "store" / "checkpoint").iterdir()] == ["model"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_the_systems_refusal_becomes_disk_full(tmp_path: Path) -> None:
    with pytest.raises(DiskFull) as caught:
        with disk_full_is_typed(tmp_path, 7):
            with Path("/dev/full").open("wb", buffering=0) as stream:
                stream.write(b"content")
    assert caught.value.needed == 7
    assert caught.value.folder == str(tmp_path)


def test_other_errors_keep_their_type(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError) as caught:
        ArtifactStore(str(tmp_path)).put_bytes(b"x", "file/below")
    assert caught.value.errno in (errno.ENOTDIR, errno.EEXIST)
    assert not isinstance(caught.value, DiskFull)


def test_links_cannot_lead_out(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "link").symlink_to(outside)
    with pytest.raises(UnsafePath, match="by a link"):
        ArtifactStore(str(tmp_path / "store")).put_bytes(b"x", "link/file")
    assert list(outside.iterdir()) == []


def test_moving_renames_without_a_copy(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"weights")
    inode = source.stat().st_ino
    store = ArtifactStore(str(tmp_path / "store"))
    entry = store.put_file(source, "model", move=True)
    assert entry.size == 7
    stored = store.local_path("model")
    assert stored is not None and stored.stat().st_ino == inode
    assert not source.exists()


def test_unfinished_files_are_not_listed(tmp_path: Path) -> None:
    (tmp_path / ".partial-0123-model").write_bytes(b"half")
    assert ArtifactStore(str(tmp_path)).sizes() == {}


def test_uris_and_folders_name_the_same_place(tmp_path: Path) -> None:
    spaced = tmp_path / "with space"
    assert ArtifactStore(str(spaced)).uri == ArtifactStore(spaced.as_uri()).uri
    ArtifactStore(spaced.as_uri()).put_bytes(b"x", "a")
    assert (spaced / "a").read_bytes() == b"x"


def test_a_host_in_a_file_uri_is_refused() -> None:
    with pytest.raises(UnsafePath, match="names a host"):
        ArtifactStore("file://server/share")
