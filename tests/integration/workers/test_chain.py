"""One command's outputs are another's inputs."""

from __future__ import annotations

from pathlib import Path

from worker_recorder import Recorder

from quarterdeck.specs.protocol import ResolvedAsset


def test_a_folder_is_handed_from_one_program_to_the_next(
    recorder: Recorder, machine: object, tmp_path: Path
) -> None:
    artifacts = (tmp_path / "artifacts").as_uri()
    spec = {
        "command": "if [ $RANK = 0 ]; then mkdir -p out/m; echo weights > out/m/w; fi",
        "outputs": {"model": "out/m"},
    }
    first = recorder.submit("maker", "command", spec, ranks=2, artifacts_uri=artifacts)
    assert recorder.ended(first).reported_phase == "succeeded"
    (made,) = [output for beat in recorder.beats[first] for output in beat.outputs]
    assert (made.kind, made.name, [file.path for file in made.files]) == ("model", "maker", ["w"])

    read = ResolvedAsset(
        kind="model", name=made.name, version=1, digest=made.digest, uri=made.uri
    )  # fmt: skip
    spec = {"command": "cat $QUARTERDECK_INPUT_BASE/w; ls $QUARTERDECK_INPUTS_DIR"}
    second = recorder.submit(
        "reader", "command", spec, artifacts_uri=artifacts, inputs={"inputs.base": [read]}
    )
    assert recorder.ended(second).reported_phase == "succeeded"
    assert recorder.lines(second) == ["weights", "base", "inputs.json"]


def test_a_promised_folder_that_is_missing_fails_the_run(
    recorder: Recorder, machine: object, tmp_path: Path
) -> None:
    run = recorder.submit(
        "promiser", "command", {"command": "true", "outputs": {"dataset": "out"}},
        artifacts_uri=(tmp_path / "artifacts").as_uri(),
    )  # fmt: skip
    final = recorder.ended(run)
    assert final.reported_phase == "failed"
    assert final.failure is not None
    assert (final.failure.blame, final.failure.rank) == ("user_code", 0)
    assert "ended without making the folder out" in final.failure.message
