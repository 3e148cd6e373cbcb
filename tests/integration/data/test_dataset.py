"""Registering files and reading them again."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import fsspec
import pytest
from moto.server import ThreadedMotoServer

from quarterdeck_workers.data.dataset import (
    Manifest,
    decode,
    read_documents,
    scan,
    split_of,
)
from quarterdeck_workers.data.errors import DataProblem


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "corpus"
    (root / "deep" / "er").mkdir(parents=True)
    for number in range(200):
        (root / "deep" / f"f{number:03d}.txt").write_text(f"document {number}\n" * 3)
    (root / "top.txt").write_text("top")
    (root / "deep" / "er" / "code.py").write_text("x = 1")
    (root / "empty.txt").write_text("")
    return root


def test_a_scan_lists_digests_of_all_selected_files(folder: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    manifest = scan(
        folder.as_uri(), include=["**/*.txt"], exclude=["deep/f00*"],
        progress=lambda *a: seen.append(a),
    )  # fmt: skip
    assert len(manifest.files) == 191  # 200 + top - 10 excluded; the empty one is left out
    assert [f.path for f in manifest.files] == sorted(f.path for f in manifest.files)
    top = next(f for f in manifest.files if f.path == "top.txt")
    assert (top.size, top.sha256) == (3, hashlib.sha256(b"top").hexdigest())
    assert seen[-1][:2] == (192, 192)
    assert manifest.bytes_of() == sum(f.size for f in manifest.files)


def test_a_plain_path_and_a_uri_and_memory_are_the_same_version(folder: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(f"{folder}/", "/corpus/", recursive=True)
    versions = [scan(uri) for uri in (str(folder), folder.as_uri(), "memory://corpus")]
    assert len({m.digest for m in versions}) == 1
    remote = next(iter(read_documents(versions[2], versions[2].files)))
    assert remote.content == (folder / versions[2].files[0].path).read_bytes()
    memory.rm("/corpus", recursive=True)


def test_pipes_are_no_files(folder: Path) -> None:
    """Reading one would wait for a writer for ever."""
    os.mkfifo(folder / "pipe.txt")
    (folder / "to-pipe.txt").symlink_to(folder / "pipe.txt")
    paths = {f.path for f in scan(str(folder)).files}
    assert "top.txt" in paths and not {"pipe.txt", "to-pipe.txt"} & paths


def test_a_bucket_is_a_dataset(folder: Path) -> None:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        options: dict[str, object] = {
            "key": "testing", "secret": "testing",
            "client_kwargs": {"endpoint_url": f"http://{host}:{port}", "region_name": "us-east-1"},
        }  # fmt: skip
        bucket = fsspec.filesystem("s3", **options)
        bucket.mkdir("corpora", region_name="us-east-2")
        bucket.put(f"{folder / 'deep'}/", "corpora/web/", recursive=True)
        there = scan("s3://corpora/web", storage_options=options, held_out=0.1)
        here = scan(str(folder / "deep"), held_out=0.1)
        assert there.digest == here.digest
        first = next(iter(read_documents(there, there.files, options)))
        assert first.content == (folder / "deep" / first.path).read_bytes()
        with pytest.raises(DataProblem, match="nothing is at s3://corpora/absent"):
            scan("s3://corpora/absent", storage_options=options)
    finally:
        server.stop()


def test_the_digest_tells_contents_names_and_splits_apart(folder: Path) -> None:
    first = scan(str(folder), held_out=0.2)
    assert scan(str(folder), held_out=0.2).digest == first.digest
    assert scan(str(folder), held_out=0.3).digest != first.digest
    (folder / "top.txt").write_text("tip")
    changed = scan(str(folder), held_out=0.2)
    assert changed.digest != first.digest
    (folder / "top.txt").rename(folder / "renamed.txt")
    assert scan(str(folder), held_out=0.2).digest != changed.digest


def test_the_split_follows_content_alone(folder: Path) -> None:
    manifest = scan(str(folder), held_out=0.25)
    held_out = {f.path for f in manifest.of("held_out")}
    assert 25 <= len(held_out) <= 75
    for path in held_out:
        (folder / "copies").mkdir(exist_ok=True)
        (folder / "copies" / Path(path).name).write_bytes((folder / path).read_bytes())
    (folder / "new.txt").write_text("something else")
    again = scan(str(folder), held_out=0.25)
    copies = {f.path: f.split for f in again.files if f.path.startswith("copies/")}
    assert copies and set(copies.values()) == {"held_out"}
    kept = {f.path for f in again.of("held_out") if not f.path.startswith("copies/")}
    assert kept - {"new.txt"} == held_out
    contents = {s: {f.sha256 for f in again.of(s)} for s in ("train", "held_out")}
    assert not contents["train"] & contents["held_out"]


def test_shares_at_the_ends() -> None:
    assert split_of("f" * 64, 1.0) == "held_out"
    assert split_of("0" * 64, 0.0) == "train"


def test_a_manifest_comes_back_and_notices_changes(folder: Path, tmp_path: Path) -> None:
    manifest = scan(str(folder), held_out=0.1)
    path = tmp_path / "manifest.jsonl"
    manifest.save(path)
    assert Manifest.load(path) == manifest
    path.write_text(path.read_text().replace('"size": 3', '"size": 4'))
    with pytest.raises(DataProblem, match="register the dataset again"):
        Manifest.load(path)


def test_a_changed_file_is_named_with_the_remedy(folder: Path) -> None:
    manifest = scan(str(folder))
    (folder / "top.txt").write_text("changed")
    with pytest.raises(DataProblem, match=r"top\.txt .* changed .* register the dataset again"):
        list(read_documents(manifest, manifest.files))


def test_a_vanished_file_is_named_with_the_remedy(folder: Path) -> None:
    manifest = scan(str(folder))
    (folder / "top.txt").unlink()
    with pytest.raises(DataProblem, match=r"top\.txt .* cannot be read"):
        list(read_documents(manifest, manifest.files))


def test_one_file_is_a_dataset(folder: Path) -> None:
    manifest = scan((folder / "top.txt").as_uri())
    assert [f.path for f in manifest.files] == ["top.txt"]
    assert next(iter(read_documents(manifest, manifest.files))).content == b"top"


def test_links_that_lead_nowhere_are_left_out(folder: Path) -> None:
    (folder / "dangling.txt").symlink_to(folder / "absent")
    (folder / "linked.txt").symlink_to(folder / "top.txt")
    paths = {f.path for f in scan(str(folder)).files}
    assert "linked.txt" in paths and "dangling.txt" not in paths


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_without_permission_is_named(folder: Path) -> None:
    (folder / "top.txt").chmod(0)
    with pytest.raises(DataProblem, match=r"top\.txt cannot be read"):
        scan(str(folder))


@pytest.mark.parametrize(
    ("uri", "include", "message"),
    [
        ("/nowhere/at/all", ["**/*"], "nothing is at /nowhere/at/all"),
        ("nosuchscheme://x", ["**/*"], "cannot be opened"),
        (None, ["*.md"], "none is selected"),
        (None, ["empty.txt"], "are empty"),
    ],
)
def test_missing_data_is_named(
    folder: Path, uri: str | None, include: list[str], message: str
) -> None:
    with pytest.raises(DataProblem, match=message):
        scan(uri or str(folder), include=include)


def test_binaries_have_no_text() -> None:
    assert decode(b"\x7fELF\0\0") is None
    assert decode("naïve".encode()) == "naïve"
    assert decode("naïve".encode("latin-1")) == "na\ufffdve"
