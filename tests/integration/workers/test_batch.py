"""Offline inference on real ranks: killed, resumed, one row out for each row in."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from worker_recorder import Recorder

from quarterdeck.artifacts import ArtifactStore
from quarterdeck.specs.protocol import ResolvedAsset, ResumeFrom

sys.path.append(str(Path(__file__).parents[1] / "engine"))
from tiny import make_model_folder

ROWS = 300
SPEC = {
    "kind": "batch", "name": "answers", "model": "m", "dataset": "d", "ranks": 2,
    "input": "{{word}} {{number}}", "shard_rows": 8, "batch_size": 4, "on_error": "record",
    "generation": {"max_tokens": 48, "temperature": 0.7, "seed": 3},
}  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A tiny model in the store, and a folder of rows of which two cannot be asked."""
    root = tmp_path_factory.mktemp("batch")
    store = ArtifactStore((root / "artifacts").as_uri())
    store.put_folder(make_model_folder(root / "model"), "assets/model/m")
    rows = [json.dumps({"word": "ship", "number": number}) for number in range(ROWS - 2)]
    folder = root / "rows"
    folder.mkdir()
    (folder / "a.jsonl").write_text("\n".join(rows[:50]) + "\n")
    (folder / "b.jsonl").write_text("\n".join([*rows[50:], '{"word": "no number"}', "{broken"]))
    model = ResolvedAsset(
        kind="model", name="m", version=1, digest="0", uri=store.uri_of("assets/model/m")
    )
    dataset = ResolvedAsset(kind="dataset", name="d", version=1, digest="1", uri=str(folder))
    return {"artifacts_uri": store.uri, "inputs": {"model": [model], "dataset": [dataset]}}


def _rows(uri: str, store: ArtifactStore, files: list[str]) -> list[dict[str, Any]]:
    folder = store.path_of(uri)
    return [
        json.loads(line)
        for file in files
        for line in store.read_bytes(f"{folder}/{file}").decode().splitlines()
    ]


def test_each_row_is_answered_once_though_a_rank_is_killed(
    recorder: Recorder, machine: object, inputs: dict[str, Any]
) -> None:
    store = ArtifactStore(inputs["artifacts_uri"])
    first = recorder.submit("answers", "batch", SPEC, ranks=2, **inputs)
    recorder.wait(lambda: any(beat.metrics for beat in recorder.beats.get(first, [])), 120)
    pid = recorder.pids(first)[1]
    # Stopped, it keeps its shard: however quick the machine, the job cannot end before the kill.
    os.kill(pid, signal.SIGSTOP)
    recorder.wait(lambda: any(beat.checkpoints for beat in recorder.beats[first]), 120)
    os.kill(pid, signal.SIGKILL)
    killed = recorder.ended(first)
    assert killed.reported_phase == "failed"
    assert not [output for beat in recorder.beats[first] for output in beat.outputs]
    kept = [manifest for beat in recorder.beats[first] for manifest in beat.checkpoints][-1]
    assert 0 < kept.step < ROWS

    resume = ResumeFrom(checkpoint_id="c", step=kept.step, uri=kept.uri, manifest=kept)
    second = recorder.submit(
        "answers-2", "batch", SPEC, ranks=2, epoch=2, owner_id="job-answers", owner_name="answers",
        resume=resume,
        **inputs,
    )  # fmt: skip
    final = recorder.ended(second, 120)
    assert final.reported_phase == "succeeded", final.failure
    steps = [row.step for beat in recorder.beats[second] for row in beat.metrics]
    assert min(steps) > kept.step
    assert max(steps) == ROWS
    (output,) = [output for beat in recorder.beats[second] for output in beat.outputs]
    assert output.metadata["rows"] == ROWS
    assert output.metadata["rows_with_error"] == 2
    rows = _rows(output.uri, store, [file.path for file in output.files])
    assert [row["id"] for row in rows] == [
        *(f"a.jsonl:{line}" for line in range(1, 51)),
        *(f"b.jsonl:{line}" for line in range(1, ROWS - 49)),
    ]
    errors = [row["error"] for row in rows if "error" in row]
    assert "field 'number' is missing" in errors[0]
    assert "not JSON" in errors[1]
    epochs = Counter(file.path.rpartition("-")[2] for file in output.files)
    assert epochs["1.jsonl"] == len(kept.state["shards"])
    assert epochs["2.jsonl"] == len(output.files) - epochs["1.jsonl"]

    # An undisturbed run on one rank draws the same words: a row's draws are its own.
    alone = recorder.submit("alone", "batch", {**SPEC, "ranks": 1}, **inputs)
    assert recorder.ended(alone, 180).reported_phase == "succeeded"
    (other,) = [output for beat in recorder.beats[alone] for output in beat.outputs]
    undisturbed = _rows(other.uri, store, [file.path for file in other.files])
    same = sum(a == b for a, b in zip(rows, undisturbed, strict=True))
    assert same >= 0.9 * ROWS, f"{same} of {ROWS} rows are equal"


def test_a_row_that_cannot_be_asked_fails_the_job_by_default(
    recorder: Recorder, machine: object, inputs: dict[str, Any]
) -> None:
    spec = {**SPEC, "on_error": "fail", "input": "{{title}}"}
    run = recorder.submit("strict", "batch", spec, **inputs)
    final = recorder.ended(run, 120)
    assert final.failure is not None
    assert final.failure.blame == "data"
    assert "a.jsonl:1: field 'title' is missing" in final.failure.message
