"""What every store must do, wherever its bytes are."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from quarterdeck.artifacts import ArtifactStore, Corrupt, UnsafePath, folder_digest
from quarterdeck.specs.beats import CheckpointManifest, FileEntry

WEIGHTS = bytes(range(256)) * 9000
"""More than two copy chunks, and no multiple of one."""


def _manifest(store: ArtifactStore, files: list[FileEntry]) -> CheckpointManifest:
    uri = store.uri_of("checkpoints/job-a/1/30")
    return CheckpointManifest(step=30, epoch=1, uri=uri, files=files)


@pytest.fixture
def saved(store: ArtifactStore, tmp_path: Path) -> list[FileEntry]:
    source = tmp_path / "source"
    (source / "optimizer").mkdir(parents=True)
    (source / "model.safetensors").write_bytes(WEIGHTS)
    (source / "optimizer" / "rank-0.safetensors").write_bytes(b"moments")
    return store.put_folder(source, "checkpoints/job-a/1/30")


def test_entries_tell_size_and_digest(saved: list[FileEntry]) -> None:
    assert saved == [
        FileEntry(
            path="model.safetensors",
            size=len(WEIGHTS),
            sha256=hashlib.sha256(WEIGHTS).hexdigest(),
        ),
        FileEntry(
            path="optimizer/rank-0.safetensors",
            size=7,
            sha256=hashlib.sha256(b"moments").hexdigest(),
        ),
    ]


def test_bytes_come_back(store: ArtifactStore, saved: list[FileEntry]) -> None:
    assert store.read_bytes("checkpoints/job-a/1/30/model.safetensors") == WEIGHTS
    with store.open("checkpoints/job-a/1/30/model.safetensors") as stream:
        stream.seek(-3, 2)
        assert stream.read() == WEIGHTS[-3:]


def test_folder_is_fetched_whole(
    store: ArtifactStore, saved: list[FileEntry], tmp_path: Path
) -> None:
    fetched = store.get_folder("checkpoints/job-a/1/30", tmp_path / "here")
    assert fetched == saved
    assert (tmp_path / "here" / "model.safetensors").read_bytes() == WEIGHTS


def test_fetching_refuses_other_bytes(
    store: ArtifactStore, saved: list[FileEntry], tmp_path: Path
) -> None:
    store.put_bytes(b"MOMENTS", "checkpoints/job-a/1/30/optimizer/rank-0.safetensors")
    with pytest.raises(Corrupt, match=r"optimizer/rank-0.safetensors: sha256"):
        store.get_folder("checkpoints/job-a/1/30", tmp_path / "here", saved)
    assert not (tmp_path / "here" / "optimizer" / "rank-0.safetensors").exists()
    assert (tmp_path / "here" / "model.safetensors").read_bytes() == WEIGHTS


def test_fetching_again_repairs_only_what_differs(
    store: ArtifactStore, saved: list[FileEntry], tmp_path: Path
) -> None:
    here = tmp_path / "here"
    store.get_folder("checkpoints/job-a/1/30", here, saved)
    before = (here / "model.safetensors").stat().st_ino
    (here / "optimizer" / "rank-0.safetensors").write_bytes(b"damaged")
    assert store.get_folder("checkpoints/job-a/1/30", here, saved) == saved
    assert (here / "optimizer" / "rank-0.safetensors").read_bytes() == b"moments"
    assert (here / "model.safetensors").stat().st_ino == before


def test_verify_accepts_what_was_written(store: ArtifactStore, saved: list[FileEntry]) -> None:
    store.verify(_manifest(store, saved))


def test_verify_names_each_difference(store: ArtifactStore, saved: list[FileEntry]) -> None:
    store.put_bytes(b"MOMENTS", "checkpoints/job-a/1/30/optimizer/rank-0.safetensors")
    store.put_bytes(WEIGHTS[:-1], "checkpoints/job-a/1/30/model.safetensors")
    absent = FileEntry(path="trainer.json", size=2, sha256="00")
    with pytest.raises(Corrupt) as caught:
        store.verify(_manifest(store, [*saved, absent]))
    assert set(caught.value.files) == {
        "model.safetensors",
        "optimizer/rank-0.safetensors",
        "trainer.json",
    }
    assert caught.value.files["trainer.json"] == "missing"
    assert caught.value.files["model.safetensors"].startswith(f"{len(WEIGHTS) - 1} bytes")


def test_sizes_alone_miss_changed_bytes(store: ArtifactStore, saved: list[FileEntry]) -> None:
    store.put_bytes(b"MOMENTS", "checkpoints/job-a/1/30/optimizer/rank-0.safetensors")
    store.verify(_manifest(store, saved), digests=False)


def test_a_store_is_empty_until_something_is_in_it(store: ArtifactStore) -> None:
    assert store.is_empty()
    store.put_bytes(b"x", "a/b/c")
    assert not store.is_empty()
    assert not store.folder("a").is_empty()
    assert store.folder("z").is_empty()


def test_writing_again_replaces(store: ArtifactStore) -> None:
    store.put_bytes(b"first, longer", "a/b")
    store.put_bytes(b"second", "a/b")
    assert store.read_bytes("a/b") == b"second"
    assert store.sizes("a") == {"b": 6}


def test_delete_takes_the_folder_and_nothing_else(
    store: ArtifactStore, saved: list[FileEntry]
) -> None:
    store.put_bytes(b"next", "checkpoints/job-a/1/300/model.safetensors")
    assert store.delete_prefix("checkpoints/job-a/1/30") == 2
    assert not store.exists("checkpoints/job-a/1/30/model.safetensors")
    assert store.read_bytes("checkpoints/job-a/1/300/model.safetensors") == b"next"
    assert store.delete_prefix("checkpoints/job-a/1/30") == 0


def test_missing_files_are_said(store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        store.read_bytes("none")
    with pytest.raises(FileNotFoundError):
        store.get_folder("none", tmp_path / "here")


@pytest.mark.parametrize(
    "path", ["../outside", "a/../../outside", "/etc/passwd", "a\\b", "", ".", "a\0b"]
)
def test_paths_cannot_leave(store: ArtifactStore, path: str, tmp_path: Path) -> None:
    with pytest.raises(UnsafePath):
        store.put_bytes(b"x", path)
    with pytest.raises(UnsafePath):
        store.open(path)
    with pytest.raises(UnsafePath):
        store.delete_prefix(path)


def test_fetched_names_cannot_leave(store: ArtifactStore, tmp_path: Path) -> None:
    evil = FileEntry(path="../evil", size=1, sha256="00")
    with pytest.raises(UnsafePath):
        store.get_folder("checkpoints", tmp_path / "here", [evil])


def test_a_foreign_manifest_is_refused(store: ArtifactStore) -> None:
    manifest = CheckpointManifest(step=1, epoch=1, uri=store.uri + "-other/x", files=[])
    with pytest.raises(UnsafePath, match="is not inside"):
        store.verify(manifest)


def test_folders_with_equal_contents_have_equal_digests(
    store: ArtifactStore, saved: list[FileEntry]
) -> None:
    moved = [entry.model_copy() for entry in reversed(saved)]
    assert folder_digest(moved) == folder_digest(saved)
    renamed = [saved[0].model_copy(update={"path": "other"}), saved[1]]
    assert folder_digest(renamed) != folder_digest(saved)


def test_credentials_are_not_shown(s3_options: dict[str, object]) -> None:
    assert "testing" not in repr(ArtifactStore("s3://artifacts/x", s3_options))
