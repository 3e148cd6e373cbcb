"""Retention deletes what newer checkpoints replace, in the store and in the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import select

from quarterdeck.artifacts.store import ArtifactStore
from quarterdeck.controller.retention import Retention
from quarterdeck.store.tables import CheckpointRow


def states(platform: Any) -> dict[int, str]:
    with platform.database.read() as session:
        return {row.step: row.state for row in session.scalars(select(CheckpointRow))}


def saved_run(platform: Any, make: Any, store: ArtifactStore, steps: list[int]) -> Any:
    job_id, run = platform.started(
        make["command"]("j", checkpoints={"every": 10, "keep_last": 2, "keep_every": 30})
    )
    for step in steps:
        store.put_bytes(b"weights", f"checkpoints/{job_id}/1/{step}/model.safetensors")
        platform.agent.say(run, "running", step=step, checkpoints=[make["manifest"](run, step)])
    return run


def test_old_checkpoints_go_and_new_ones_stay(platform: Any, make: Any, tmp_path: Path) -> None:
    store = ArtifactStore(f"file://{tmp_path}/artifacts")
    run = saved_run(platform, make, store, [10, 20, 30, 40, 50])
    retention = Retention(platform.database, store)
    assert retention.tick() == 2
    assert states(platform) == {
        10: "deleted", 20: "deleted", 30: "registered", 40: "registered", 50: "registered",
    }  # fmt: skip
    left = sorted(
        path.name for path in (tmp_path / f"artifacts/checkpoints/{run.owner_id}/1").iterdir()
    )
    assert left == ["30", "40", "50"]
    assert retention.tick() == 0


def test_a_crash_between_row_and_files_is_finished_later(
    platform: Any, make: Any, tmp_path: Path
) -> None:
    store = ArtifactStore(f"file://{tmp_path}/artifacts")
    saved_run(platform, make, store, [10, 20, 40])

    class Broken:
        def delete_prefix(self, path: str) -> None:
            raise OSError("no route to the store")

    assert Retention(platform.database, Broken()).tick() == 0
    assert states(platform)[10] == "deleting"
    assert Retention(platform.database, store).tick() == 1
    assert states(platform)[10] == "deleted"


def test_nothing_resumes_from_what_is_being_deleted(
    platform: Any, make: Any, tmp_path: Path
) -> None:
    store = ArtifactStore(f"file://{tmp_path}/artifacts")
    run = saved_run(platform, make, store, [10, 20, 40])
    with platform.database.write() as session:
        for row in session.scalars(select(CheckpointRow).where(CheckpointRow.step == 40)):
            row.state = "deleting"
    platform.agent.saw(run, "dead")
    platform.controller.tick()
    assert platform.run_of(run.owner_id).resumed_from_step == 20
