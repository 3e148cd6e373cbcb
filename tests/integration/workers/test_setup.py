"""`setup` on the machines: once for each content, shared, killable, and honest when it fails."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import psutil
import pytest
from worker_recorder import Recorder

from quarterdeck.specs.beats import RunBeat
from quarterdeck_workers.rank.setup import DONE, forget_unused


def setup_lines(recorder: Recorder, run: str) -> list[str]:
    return [
        line
        for beat in recorder.beats.get(run, [])
        for chunk in beat.logs
        if chunk.stream == "setup"
        for _, line in chunk.lines
    ]


def test_it_is_made_once_for_runs_of_the_same_content(
    recorder: Recorder, machine: object, tmp_path: Path
) -> None:
    setup = f"""
echo making >> {tmp_path}/made
cat $QUARTERDECK_SECRETS_DIR/TOKEN; echo
sleep 2
cd $QUARTERDECK_ENV_DIR
echo 'print("tool", __import__("numpy").ones(1).sum())' > tool.py
printf '#!/bin/sh\\nexec python $QUARTERDECK_ENV_DIR/tool.py\\n' > bin/tool
chmod +x bin/tool
pip --version
"""
    spec = {"command": "tool; python -c 'import sys; print(sys.prefix)'", "setup": setup}
    secrets = {"TOKEN": "s3cret-t0ken"}
    runs = [
        recorder.submit(f"setup-{number}", "command", spec, ranks=2, secrets=secrets)
        for number in range(2)
    ]
    finals = [recorder.ended(run) for run in runs]
    assert [final.reported_phase for final in finals] == ["succeeded"] * 2, finals[0].failure
    for run in runs:
        first, prefix = recorder.lines(run, 1)[-2:]
        assert first == "tool 1.0" and Path(prefix).name == "env"
    assert (tmp_path / "made").read_text() == "making\n"
    made = sorted(map(len, (setup_lines(recorder, run) for run in runs)))
    assert made[0] == 0 and made[1] >= 2
    said = [line for run in runs for line in setup_lines(recorder, run)]
    assert "***" in said and not any("s3cret" in line for line in said)
    other = recorder.submit("setup-other", "command", {**spec, "env": {"A": "b"}}, secrets=secrets)
    assert recorder.ended(other).reported_phase == "succeeded"
    assert (tmp_path / "made").read_text() == "making\n" * 2


def test_its_failure_names_the_node_with_the_last_lines_and_is_tried_again(
    recorder: Recorder, machine: object, tmp_path: Path
) -> None:
    setup = f"echo no such package; test -e {tmp_path}/mended; echo not reached"
    spec = {"command": "echo ran", "setup": setup}
    failure = recorder.ended(recorder.submit("setup-bad", "command", spec)).failure
    assert failure is not None and failure.blame == "user_code"
    assert "setup on" in failure.message and "code 1" in failure.message
    assert failure.traceback == "no such package"
    assert setup_lines(recorder, "setup-bad") == ["no such package"]
    (tmp_path / "mended").touch()
    again = recorder.ended(recorder.submit("setup-good", "command", spec))
    assert again.reported_phase == "succeeded"


@pytest.mark.parametrize("order", ["stop", "checkpoint_and_stop"])
def test_an_order_to_stop_ends_it_with_all_its_processes(
    recorder: Recorder, machine: object, tmp_path: Path, order: str
) -> None:
    setup = f"setsid sleep 600 & echo $! > {tmp_path}/pid; echo begun; trap '' TERM; sleep 600; :"
    run = recorder.submit(f"setup-{order}", "command", {"command": "true", "setup": setup})
    recorder.wait(lambda: setup_lines(recorder, run))
    asked = time.monotonic()
    recorder.reply(run, order, deadline=600)
    final: RunBeat = recorder.ended(run)
    assert final.reported_phase == ("cancelled" if order == "stop" else "preempted")
    assert time.monotonic() - asked < 60
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_only_environments_that_nobody_holds_are_forgotten(tmp_path: Path) -> None:
    import fcntl
    import os

    for age, name in enumerate(("new", "old", "held", "oldest")):
        (tmp_path / name).mkdir()
        (tmp_path / name / DONE).touch()
        os.utime(tmp_path / name / DONE, (1000 - age, 1000 - age))
    with (tmp_path / "held.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        thread = threading.Thread(target=forget_unused, args=(tmp_path, 1))
        thread.start()
        thread.join(10)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"new", "held"}
