"""`checkpoints: {path}`: attempts hand a folder on, whatever way they ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from worker_recorder import Recorder

from quarterdeck.specs.beats import CheckpointManifest
from quarterdeck.specs.common import Checkpoints
from quarterdeck.specs.protocol import RankPlacement, ResumeFrom, RunOrder
from quarterdeck_workers.rank.kept import KeptFolder, kept_folder, restore_kept

COUNT = """
mkdir -p out/deep
n=$(cat out/deep/n 2>/dev/null || echo 0)
echo $((n+1)) > out/deep/n
echo counted $((n+1)) in $QUARTERDECK_RESUME_DIR
"""


def kept(recorder: Recorder, run: str) -> list[CheckpointManifest]:
    return [one for beat in recorder.beats[run] for one in beat.checkpoints]


def resume(manifest: CheckpointManifest) -> ResumeFrom:
    return ResumeFrom(
        checkpoint_id="c", step=manifest.step, uri=manifest.uri, manifest=manifest
    )  # fmt: skip


def test_the_next_attempt_finds_what_the_last_one_left(
    recorder: Recorder, machine: object, tmp_path: Path
) -> None:
    def attempt(name: str, ending: str, **order: Any) -> CheckpointManifest:
        spec = {"command": f"{COUNT}\n{ending}", "checkpoints": {"path": "out"}}
        store = (tmp_path / "store").as_uri()
        run = recorder.submit(name, "command", spec, artifacts_uri=store, **order)
        if "sleep" in ending:
            recorder.wait(lambda: recorder.lines(run))
            recorder.reply(run, "stop", deadline=1)
        recorder.ended(run)
        (manifest,) = kept(recorder, run)
        return manifest

    first = attempt("kept-1", "exit 3")
    assert [file.path for file in first.files] == ["deep/n"] and first.step == 1
    second = attempt("kept-2", "trap '' TERM; sleep 600; :", resume=resume(first))
    assert second.step == 2
    third = attempt("kept-3", "true", resume=resume(second))
    assert recorder.lines("kept-3")[0].startswith("counted 3 in /")
    assert third.step == 3


def order(tmp_path: Path, workdir: object = None) -> RunOrder:
    return RunOrder(
        run_id="r", epoch=1, owner_type="job", owner_id="job-x", owner_name="x", kind="command",
        spec={"checkpoints": {"path": "out"}, "workdir": workdir}, cluster="c",
        placements=[RankPlacement(rank=0, node_id="n")],
        artifacts_uri=(tmp_path / "store").as_uri(), api_url="", run_key="",
    )  # fmt: skip


def test_only_whole_and_new_states_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workdir = tmp_path / "work"
    folder = kept_folder(order(tmp_path), workdir)
    assert folder == workdir / "out"
    keeper = KeptFolder(order(tmp_path), folder)
    assert keeper.keep() is None
    folder.mkdir(parents=True)
    (folder / "a").write_text("1")
    manifest = keeper.keep()
    assert manifest is not None and manifest.step == 1
    assert keeper.keep() is None
    from quarterdeck_workers.rank import kept as module

    real = module.keep_folder

    def meanwhile(*arguments: Any) -> CheckpointManifest:
        made = real(*arguments)
        (folder / "b").write_text("half")
        return made

    (folder / "a").write_text("22")
    with monkeypatch.context() as patch:
        patch.setattr(module, "keep_folder", meanwhile)
        assert keeper.keep() is None
    checkpoints = tmp_path / "store" / "checkpoints" / "job-x" / "1"
    assert [path.name for path in checkpoints.iterdir()] == ["1"]
    second = keeper.keep()
    assert second is not None and second.step == 2
    # A folder of the machine's own that holds something is left alone.
    shared = tmp_path / "shared"
    (shared / "out").mkdir(parents=True)
    (shared / "out" / "mine").touch()
    again = order(tmp_path, shared.as_uri()).model_copy(update={"resume": resume(second)})
    restore_kept(again, workdir)
    assert [path.name for path in (shared / "out").iterdir()] == ["mine"]
    (shared / "out" / "mine").unlink()
    restore_kept(again, workdir)
    assert sorted(path.name for path in (shared / "out").iterdir()) == ["a", "b"]


@pytest.mark.parametrize("path", ["/out", "../out", "a/../../out", ""])
def test_paths_outside_of_the_folder_are_refused(path: str) -> None:
    with pytest.raises(ValidationError, match="not inside"):
        Checkpoints(path=path)
