"""`hold_on_failure`: slots, folders and secrets stay for a while; an order ends it at once."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest
from worker_recorder import Recorder


@pytest.mark.parametrize("seconds", [600, 3])
def test_a_failed_run_is_held_until_its_time_or_an_order(
    recorder: Recorder, machine: object, seconds: int
) -> None:
    command = (
        "echo $QUARTERDECK_WORKDIR; echo $QUARTERDECK_SECRETS_DIR; touch evidence;"
        "if [ $RANK = 0 ]; then sleep 1; exit 3; fi; sleep 600"
    )
    run = recorder.submit(
        f"held-{seconds}", "command", {"command": command, "hold_on_failure": seconds}, ranks=2,
        secrets={"TOKEN": "s3cret"},
    )  # fmt: skip
    recorder.wait(lambda: any("held until" in beat.message for beat in recorder.beats.get(run, [])))
    held = recorder.beats[run][-1]
    workdir, secrets = (Path(line) for line in recorder.lines(run, 1))
    if seconds == 600:
        assert held.reported_phase == "running" and "code 3" in held.message
        assert (workdir / "evidence").exists()
        assert (secrets / "TOKEN").read_text() == "s3cret"
        assert not any(rank.pid and psutil.pid_exists(rank.pid) for rank in held.ranks)
        asked = time.monotonic()
        recorder.reply(run, "stop")
        final = recorder.ended(run)
        assert time.monotonic() - asked < 60
    else:
        final = recorder.ended(run)
    assert final.reported_phase == "failed"
    assert final.failure is not None
    assert (final.failure.rank, final.failure.exit_code) == (0, 3)
    assert [event.type for beat in recorder.beats[run] for event in beat.events] == ["run.held"]
    recorder.wait(lambda: not workdir.exists() and not secrets.exists(), 10)
