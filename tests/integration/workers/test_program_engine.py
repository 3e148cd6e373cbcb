"""A replica whose engine is a program, on a real cluster: its beats, and the way out."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from pathlib import Path

import psutil
from worker_recorder import Recorder

from quarterdeck.specs.beats import RunBeat
from quarterdeck.specs.protocol import ResolvedAsset

SERVER = Path(__file__).parents[1] / "engine" / "small_engine.py"


def submit(recorder: Recorder, run: str, folder: Path) -> str:
    (folder / "model").mkdir(exist_ok=True)
    model = ResolvedAsset(
        kind="model", name="m", version=1, digest="-", uri=(folder / "model").as_uri()
    )
    program = f"{shlex.quote(sys.executable)} {SERVER}"
    spec = {
        "engine": "command", "ready_path": "/up", "probe": "chat",
        "command": f"{program} $HOST $PORT $MODEL_NAME {shlex.quote(str(folder))}",
    }  # fmt: skip
    return recorder.submit(run, "service", spec, inputs={"model": [model]})


def engines(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        if str(SERVER) in words and str(folder) in words:
            found.append(process)
    return found


def test_a_program_s_replica_is_ready_tells_its_load_and_drains(
    recorder: Recorder, machine: object, tmp_path: Path
) -> None:
    run = submit(recorder, "program", tmp_path)
    recorder.wait(lambda: recorder.phase(run) == "ready")
    beat: RunBeat = recorder.beats[run][-1]
    assert beat.endpoint is not None and beat.endpoint.probed and beat.endpoint.kv_usage == 0.25
    assert any(event.type == "replica.started" for b in recorder.beats[run] for event in b.events)
    recorder.reply(run, "stop", 20)
    assert recorder.ended(run).reported_phase == "cancelled"  # as it was told
    assert engines(tmp_path) == []


def test_a_program_that_dies_fails_its_run_with_the_reason_and_leaves_nothing(
    recorder: Recorder, machine: object, tmp_path: Path
) -> None:
    run = submit(recorder, "dying", tmp_path)
    recorder.wait(lambda: recorder.phase(run) == "ready")
    (engine,) = engines(tmp_path)
    os.kill(engine.pid, signal.SIGKILL)
    final = recorder.ended(run)
    assert final.reported_phase == "failed" and final.failure is not None
    assert final.failure.reason == "Crashed" and "SIGKILL" in final.failure.message
    assert engines(tmp_path) == []
