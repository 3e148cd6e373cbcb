"""Pieces on disk, and slices read back across them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quarterdeck.artifacts import ArtifactStore
from quarterdeck.specs.beats import CheckpointManifest
from quarterdeck_workers.checkpoint.errors import CorruptCheckpoint, SaveFailed
from quarterdeck_workers.checkpoint.format import Piece, index_from_json, index_to_json
from quarterdeck_workers.checkpoint.reader import CheckpointReader
from quarterdeck_workers.checkpoint.restore import open_checked
from quarterdeck_workers.checkpoint.save import Progress, save

WHOLE = torch.arange(48.0).view(8, 6)


def written(folder: Path, pieces: list[Piece]) -> tuple[ArtifactStore, CheckpointManifest]:
    store = ArtifactStore(folder.as_uri())
    progress = Progress(3, 1, 48, 96, 2.5, {"data": 1}, {"seed": 1})
    manifest = save(
        store, "checkpoints/job-x/1/3", lambda: (("weights", piece) for piece in pieces),
        progress, rank=0, scratch=folder,
    )  # fmt: skip
    return store, manifest


def fused() -> list[Piece]:
    """Three blocks of columns by one rank, as GPT-2's query, key and value are."""
    return [Piece("c_attn", (8, 6), (0, 2 * i), WHOLE[:, 2 * i : 2 * i + 2]) for i in range(3)]


def test_manifest_comes_last_and_verifies(tmp_path: Path) -> None:
    store, manifest = written(tmp_path, fused())
    store.verify(manifest)
    assert (manifest.step, manifest.sample_index, manifest.loss) == (3, 48, 2.5)
    assert {file.path for file in manifest.files} == {
        "index.json", "weights/rank-00000.safetensors",
    }  # fmt: skip
    assert store.sizes("checkpoints/job-x/1/3").keys() == {
        "index.json", "manifest.json", "weights/rank-00000.safetensors",
    }  # fmt: skip


@settings(max_examples=30)
@given(st.data())
def test_any_slice_is_read_across_pieces(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    store, manifest = written(tmp_path_factory.mktemp("store"), fused())
    start = [data.draw(st.integers(0, size - 1)) for size in WHOLE.shape]
    extent = [
        data.draw(st.integers(1, size - begin))
        for size, begin in zip(WHOLE.shape, start, strict=True)
    ]
    with CheckpointReader(store, manifest, Path("unused")) as reader:
        got = reader.read("weights", "c_attn", start, extent)
    rows, columns = (slice(s, s + e) for s, e in zip(start, extent, strict=True))
    assert torch.equal(got, WHOLE[rows, columns])


def test_missing_parts_are_an_error_not_zeros(tmp_path: Path) -> None:
    store, manifest = written(tmp_path, fused()[:2])
    with CheckpointReader(store, manifest, tmp_path) as reader:
        assert reader.read("weights", "c_attn", (0, 0), (8, 4)).shape == (8, 4)
        with pytest.raises(CorruptCheckpoint, match="covers 32 of 48"):
            reader.read("weights", "c_attn")
        with pytest.raises(CorruptCheckpoint, match="no exp_avg of c_attn"):
            reader.read("exp_avg", "c_attn")


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damage_is_found_and_named(tmp_path: Path, damage: str) -> None:
    store, manifest = written(tmp_path, fused())
    file = tmp_path / "checkpoints/job-x/1/3/weights/rank-00000.safetensors"
    content = file.read_bytes()
    if damage == "flip":
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 255]))
    elif damage == "cut":
        file.write_bytes(content[:-1])
    else:
        file.unlink()
    with pytest.raises(CorruptCheckpoint, match=r"step 3 .*weights/rank-00000.safetensors"):
        open_checked(store, manifest, tmp_path, rank=0, ranks=1)


def test_failed_save_leaves_nothing_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file where a folder should be")
    with pytest.raises(SaveFailed, match="step 3 was not written") as failed:
        written(tmp_path, fused())
    assert not failed.value.disk_full


def test_index_survives_its_text() -> None:
    index = index_from_json(
        b'{"weights": {"w": [{"file": "a#w", "shape": [2], "start": [0], "extent": [2]}]}}'
    )
    assert index_from_json(index_to_json(index)) == index
