"""`tracking` on the machines: reported metrics as event files in the artifact store."""

from __future__ import annotations

from pathlib import Path

from worker_recorder import Recorder

SCRIPT = """
import os
from quarterdeck_workers import report
for step in range(3):
    report(step, {"loss": 1.0 / (step + 1)})
open(os.environ["TENSORBOARD_LOGGING_DIR"] + "/own", "w").write("x")
print(os.environ.get("WANDB_MODE"))
"""


def test_reported_metrics_are_kept_as_events(
    recorder: Recorder, machine: object, tmp_path: Path
) -> None:
    (tmp_path / "job.py").write_text(SCRIPT)
    spec = {"command": "python job.py", "workdir": str(tmp_path), "tracking": "tensorboard"}
    store = tmp_path / "store"
    run = recorder.submit("track", "command", spec, ranks=2, artifacts_uri=store.as_uri())
    assert recorder.ended(run).reported_phase == "succeeded"
    assert recorder.lines(run, 0) == ["None"]
    kept = store / "tracking" / "job-track" / "1"
    names = {file.name.split(".quarterdeck")[0][:21] for file in kept.iterdir()}
    assert names == {"events.out.tfevents.1", "own", ".place"}
    (events,) = kept.glob("events.*")
    assert events.read_bytes().count(b"loss") == 6
