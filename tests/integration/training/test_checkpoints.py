"""Kill, resume, change the layout, damage files, fill the disk."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from quarterdeck.artifacts import ArtifactStore
from quarterdeck.specs.beats import CheckpointManifest
from quarterdeck_workers.checkpoint.format import KINDS
from quarterdeck_workers.models.folders import load_model
from quarterdeck_workers.training.gang import Controls, Gang

CUBE = {"data": 2, "tensor": 2, "pipeline": 2}
Difference = Callable[[Gang, Gang], float]


def folder_of(uri: str) -> Path:
    return Path(unquote(urlsplit(uri).path))


def manifest_of(gang: Gang, step: int) -> dict[str, Any]:
    manifests = [m["manifest"] for m in gang.of("checkpoint")]
    return next(m for m in manifests if m["step"] == step)


def test_manifest_says_everything(trainings: Any) -> None:
    manifest = manifest_of(trainings.shared("cube"), 6)
    assert manifest["layout"] == {**CUBE, "zero": 1}
    assert (manifest["step"], manifest["sample_index"]) == (6, 6 * 16)
    assert manifest["tokens"] == 6 * 16 * 32
    folder = folder_of(manifest["uri"])
    on_disk = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert on_disk == {file["path"] for file in manifest["files"]} | {"manifest.json"}
    assert json.loads((folder / "manifest.json").read_text()) == manifest


def test_files_hold_each_element_once_under_their_public_names(trainings: Any) -> None:
    from quarterdeck_workers.models.initialisation import build_model

    manifest = manifest_of(trainings.shared("cube"), 12)
    folder = folder_of(manifest["uri"])
    index = json.loads((folder / "index.json").read_text())
    output = trainings.shared("cube").of("output")[0]["asset"]
    model, architecture = load_model(folder_of(output["uri"]))
    assert isinstance(model, type(build_model(architecture)))
    exported = load_file(folder_of(output["uri"]) / "model.safetensors")
    assert set(index) == set(KINDS)
    for kind in KINDS:
        assert set(index[kind]) == set(exported)
        for name, pieces in index[kind].items():
            whole = torch.zeros(pieces[0]["shape"])
            seen = torch.zeros(pieces[0]["shape"])
            for piece in pieces:
                file, _, key = piece["file"].partition("#")
                where = tuple(
                    slice(s, s + e) for s, e in zip(piece["start"], piece["extent"], strict=True)
                )
                with safe_open(folder / file, framework="pt") as tensors:
                    whole[where] = tensors.get_tensor(key)
                seen[where] += 1
            assert seen.eq(1).all(), (kind, name)
            if kind == "weights":
                assert torch.equal(whole, exported[name])
            else:
                assert whole.abs().max() > 0, (kind, name)


def test_killed_and_resumed_equals_undisturbed(trainings: Any, difference: Difference) -> None:
    def kill(rank: int, message: dict[str, Any], controls: Controls) -> None:
        if rank == 0 and message["type"] == "step" and message["step"] == 8:
            controls.kill(5)

    order = {"parallelism": CUBE, "checkpoints": {"every": 3}}
    killed = trainings.run("killed", observer=kill, **order)
    assert killed.exit_codes[5] == -9
    assert not killed.of("output")
    resumed = trainings.run("killed", epoch=2, resume=manifest_of(killed, 6), **order)
    assert resumed.failures == []
    assert min(resumed.metric("loss")) == 7
    assert difference(trainings.shared("cube"), resumed) < 1e-6
    assert manifest_of(resumed, 12)["uri"].endswith("/job-killed/2/12")


@pytest.mark.parametrize(
    "layout",
    [{"data": 2, "pipeline": 2}, {"data": 2, "zero": 3}, {"data": 1}],
    ids=["pipeline", "zero-3", "one"],
)
def test_resume_on_another_layout(
    trainings: Any, difference: Difference, layout: dict[str, Any]
) -> None:
    manifest = manifest_of(trainings.shared("cube"), 6)
    name = "relayout-" + "-".join(layout)
    gang = trainings.run(name, parallelism=layout, resume=manifest, checkpoints={"every": 3})
    assert gang.failures == []
    assert sorted(gang.metric("loss")) == [7, 8, 9, 10, 11, 12]
    assert difference(trainings.shared("cube"), gang) < 1e-4
    if layout.get("zero") == 3:
        back = trainings.run(
            "relayout-back", parallelism={"tensor": 2}, resume=manifest_of(gang, 9)
        )
        assert back.failures == []
        assert difference(trainings.shared("cube"), back) < 1e-4


def test_bf16_resumes_from_the_fp32_copies(trainings: Any, difference: Difference) -> None:
    order = {"precision": "bf16", "parallelism": {"data": 2}, "steps": 8}
    straight = trainings.run("half", checkpoints={"every": 4}, **order)
    resumed = trainings.run("half-again", resume=manifest_of(straight, 4), **order)
    assert resumed.failures == []
    assert difference(straight, resumed) < 1e-6


def test_damaged_file_is_named(trainings: Any, tmp_path: Path) -> None:
    damaged = trainings.run("damaged", steps=2, checkpoints={"every": 1})
    manifest = manifest_of(damaged, 1)
    file = folder_of(manifest["uri"]) / "exp_avg/rank-00000.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    resumed = trainings.run("damaged-again", steps=2, resume=manifest, parallelism={"data": 2})
    assert all("exp_avg/rank-00000.safetensors: sha256" in text for text in resumed.failures)
    assert len(resumed.failures) == 2
    assert not resumed.of("step")


def test_stop_heard_by_one_rank_stops_all_with_a_checkpoint(
    trainings: Any, difference: Difference
) -> None:
    def stop(rank: int, message: dict[str, Any], controls: Controls) -> None:
        if rank == 0 and message["type"] == "step" and message["step"] == 4:
            controls.stop(1)

    order = {"parallelism": {"data": 2, "zero": 2}, "steps": 400, "warmup_steps": 4}
    stopped = trainings.run("stopped", observer=stop, **order)
    assert stopped.exit_codes == [0, 0]
    last = max(stopped.metric("loss"))
    assert 4 <= last < 400
    assert [m["manifest"]["step"] for m in stopped.of("checkpoint")] == [last]
    assert not stopped.of("output")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 9 MiB, 5 of them taken by the file `ballast`."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=9M", "tmpfs", str(folder)],
        capture_output=True, check=False,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip("only root can mount a small file system")
    try:
        (folder / "ballast").write_bytes(bytes(5 << 20))
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_full_disk_is_told_and_training_goes_on(trainings: Any, small_disk: Path) -> None:
    def make_room(rank: int, message: dict[str, Any], controls: Controls) -> None:
        if message["type"] == "event":
            (small_disk / "ballast").unlink()

    for name in ("tokenizer", "code"):
        shutil.copytree(trainings.workshop.artifacts / name, small_disk / name)
    gang = trainings.run(
        "full", steps=20, checkpoints={"every": 6}, artifacts=small_disk, observer=make_room
    )
    assert gang.failures == []
    [event] = gang.of("event")
    assert event["event"] == "checkpoint_failed"
    assert (event["data"]["step"], event["data"]["disk_full"]) == (12, True)
    assert "the previous one stays" in event["message"]
    assert [m["manifest"]["step"] for m in gang.of("checkpoint")] == [6, 18, 20]
    store = ArtifactStore(small_disk.as_uri())
    for step in (6, 18, 20):
        store.verify(CheckpointManifest.model_validate(manifest_of(gang, step)))
    assert not store.exists("checkpoints/job-full/1/12")


def test_auto_checkpoints_after_the_first_ten_steps(trainings: Any) -> None:
    gang = trainings.run("auto", checkpoints={"every": "auto"}, steps=14)
    assert [m["manifest"]["step"] for m in gang.of("checkpoint")] == [10, 14]
