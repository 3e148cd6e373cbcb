"""Archives of folders: the same bytes for the same content, and nothing written outside."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest

from quarterdeck.artifacts import (
    ChangedWhileRead,
    Corrupt,
    Entry,
    UnsafeArchive,
    archive_size,
    pack,
    unpack,
)
from quarterdeck.client.folders import list_folder

LONG = "deep/" * 40 + "é" * 60


def bytes_of(folder: Path) -> bytes:
    listing = list_folder(folder)
    data = b"".join(pack(folder, listing.entries))
    assert len(data) == archive_size(listing.entries)
    return data


def read(data: bytes, target: Path, **declared: object) -> int:
    told = {"digest": hashlib.sha256(data).hexdigest(), "size": len(data), **declared}
    return unpack(io.BytesIO(data), target, **told)  # type: ignore[arg-type]


def tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for head, content in members:
            head.size = len(content)
            archive.addfile(head, io.BytesIO(content))
    return out.getvalue()


def member(name: str, type_: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    head = tarfile.TarInfo(name)
    head.type, head.linkname = type_, link
    return head


def test_a_folder_comes_back_and_its_bytes_depend_on_content_alone(tmp_path: Path) -> None:
    one = tmp_path / "one"
    for name, content in {"a.py": b"print()\n", LONG: b"x" * 1500, "b/empty": b""}.items():
        (one / name).parent.mkdir(parents=True, exist_ok=True)
        (one / name).write_bytes(content)
    (one / "run.sh").write_bytes(b"#!/bin/sh\n")
    (one / "run.sh").chmod(0o755)
    (one / "b" / "link").symlink_to("../a.py")
    data = bytes_of(one)
    assert read(data, tmp_path / "two") == 5
    two = tmp_path / "two"
    assert (two / LONG).read_bytes() == b"x" * 1500
    assert os.access(two / "run.sh", os.X_OK) and not os.access(two / "a.py", os.X_OK)
    assert (two / "b" / "link").readlink() == Path("../a.py")
    for path in two.rglob("*"):
        os.utime(path, (1, 1), follow_symlinks=False)
    assert bytes_of(two) == data
    (two / "a.py").chmod(0o700)
    assert bytes_of(two) != data


@pytest.mark.parametrize(
    "members",
    [
        [(member("../out"), b"x")],
        [(member("a/../../out"), b"x")],
        [(member("/tmp/out"), b"x")],
        [(member("link", tarfile.SYMTYPE, "/etc"), b"")],
        [(member("link", tarfile.SYMTYPE, "../out"), b"")],
        [(member("d", tarfile.SYMTYPE, "."), b""), (member("d/out"), b"x")],
        # Lexically inside, really outside: through another link.
        [(member("a/b/up", tarfile.SYMTYPE, "../.."), b""),
         (member("out", tarfile.SYMTYPE, "a/b/up/.."), b"")],
        [(member("hard", tarfile.LNKTYPE, "/etc/passwd"), b"")],
        [(member("null", tarfile.CHRTYPE), b"")],
        [(member("disk", tarfile.BLKTYPE), b"")],
        [(member("pipe", tarfile.FIFOTYPE), b"")],
        [(member("sparse", tarfile.GNUTYPE_SPARSE), b"")],
        [(member("twice"), b"x"), (member("twice"), b"y")],
        [(member("l", tarfile.SYMTYPE, "x"), b""), (member("l"), b"y")],
        [(member("x" * 5000), b"")],
    ],
)  # fmt: skip
def test_hostile_archives_leave_nothing_behind(
    tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]]
) -> None:
    with pytest.raises(UnsafeArchive):
        read(tar((member("first"), b"x"), *members), tmp_path / "in" / "target")
    assert [path.name for path in tmp_path.rglob("*")] == ["in"]


def test_lies_about_sizes_and_digests_are_refused(tmp_path: Path) -> None:
    good = tar((member("a"), b"x" * 2000))
    with pytest.raises(Corrupt):
        read(good, tmp_path / "t", digest="0" * 64)
    with pytest.raises(UnsafeArchive, match="more than it was declared"):
        read(good, tmp_path / "t", size=3000)
    with pytest.raises(Corrupt, match="missing"):
        read(good[:-3000], tmp_path / "t", size=len(good))
    bomb = bytearray(good)
    head = member("a")
    head.size = 2**33
    bomb[:512] = head.tobuf(tarfile.GNU_FORMAT)
    with pytest.raises(UnsafeArchive, match="it has not"):
        read(bytes(bomb), tmp_path / "t")
    with pytest.raises(UnsafeArchive, match="no archive"):
        read(os.urandom(2048), tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_a_file_that_changes_while_it_is_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    for size in (4, 6):
        with pytest.raises(ChangedWhileRead, match="a changed"):
            list(pack(tmp_path, [Entry("a", size)]))
