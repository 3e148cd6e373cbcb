"""Stopping, standing still, and an api that is away."""

from __future__ import annotations

import time
from pathlib import Path

from conftest import Machine
from worker_recorder import Recorder

from quarterdeck.specs.protocol import ResumeFrom

HANG = """
cat > job.py <<'END'
import os, time
from pathlib import Path
from quarterdeck_workers import report

def wait_for_the_others():
    time.sleep(600)

# A slow machine starts one long before the other: only both together stand still.
step, there = 1, Path(os.environ["MEETING"])
report(step, {"loss": 2.5})
there.joinpath(os.environ["RANK"]).touch()
while len(list(there.iterdir())) < 2:
    time.sleep(0.2)
    step += 1
    report(step, {"loss": 2.5})
wait_for_the_others()
END
exec python job.py
"""
STEPS = """
cat > job.py <<'END'
import time
from quarterdeck_workers import report
for step in range(1, 61):
    print("step", step, flush=True)
    report(step, {"loss": 10.0 - step / 10}, steps_total=60, seconds=0.1)
    time.sleep(0.1)
END
exec python job.py
"""


def test_hanging_rank_is_reported_with_stacks(
    recorder: Recorder, machine: Machine, tmp_path: Path
) -> None:
    spec = {"command": HANG, "env": {"MEETING": str(tmp_path)}}
    run = recorder.submit("hang", "command", spec, ranks=2, stall_after=2.0)
    failure = recorder.ended(run).failure
    assert failure is not None
    assert "stalled" in failure.message
    assert sorted(failure.stacks) == [0, 1]
    assert all("wait_for_the_others" in stack for stack in failure.stacks.values())


def test_silent_command_is_never_stalled(recorder: Recorder, machine: Machine) -> None:
    run = recorder.submit(
        "silent", "command", {"command": "sleep 3"}, stall_after=0.5, stall_after_first=0.5
    )
    assert recorder.ended(run).reported_phase == "succeeded"


def test_news_is_spooled_while_the_api_is_away_and_told_once(
    recorder: Recorder, machine: Machine
) -> None:
    run = recorder.submit("away", "command", {"command": STEPS})
    recorder.wait(lambda: recorder.phase(run) == "running" and recorder.beats[run][-1].step)
    recorder.lose_answers.add(run)  # stored, but the supervisor cannot know
    recorder.wait(lambda: not recorder.lose_answers)
    recorder.away = True
    seen = len(recorder.beats[run])
    try:
        time.sleep(10)
    finally:
        recorder.away = False
    assert len(recorder.beats[run]) == seen
    final = recorder.ended(run)
    assert final.reported_phase == "succeeded"
    assert recorder.lines(run) == [f"step {step}" for step in range(1, 61)]
    steps = [row.step for beat in recorder.beats[run] for row in beat.metrics]
    assert steps == list(range(1, 61))
    assert [beat.seq for beat in recorder.beats[run]] == list(range(1, final.seq + 1))
    replays = [beat for beat in recorder.received[run] if beat not in recorder.beats[run]]
    assert replays == []  # a replay is the same beat, not another of the same number
    assert len(recorder.received[run]) > len(recorder.beats[run])
    assert sum(beat.dropped for beat in recorder.beats[run]) == 0
    assert 0 < final.productive_seconds <= final.held_seconds


def test_stop_lets_a_program_finish_and_is_no_failure(recorder: Recorder, machine: Machine) -> None:
    command = "trap 'echo saving; exit 3' TERM; echo up; while :; do sleep 0.1; done"
    run = recorder.submit("stop", "command", {"command": command}, ranks=2)
    recorder.wait(lambda: recorder.lines(run).count("up") == 2)
    recorder.reply(run, "stop")
    final = recorder.ended(run)
    assert final.reported_phase == "cancelled"
    assert final.failure is None
    assert recorder.lines(run).count("saving") == 2


def test_program_that_ignores_the_stop_is_ended_at_the_deadline(
    recorder: Recorder, machine: Machine
) -> None:
    command = "trap '' TERM; echo up; while :; do sleep 0.1; done"
    run = recorder.submit("stubborn", "command", {"command": command})
    recorder.wait(lambda: "up" in recorder.lines(run))
    recorder.reply(run, "checkpoint_and_stop", deadline=1.0)
    assert recorder.ended(run).reported_phase == "preempted"
    types = [event.type for beat in recorder.beats[run] for event in beat.events]
    assert types == ["run.stop_overdue"]


def test_vanished_node_is_blamed(recorder: Recorder, machine: Machine) -> None:
    run = recorder.submit("no-node", "command", {"command": "true"}, nodes=["0" * 56])
    failure = recorder.ended(run).failure
    assert failure is not None
    assert failure.blame == "node"


KEEP = """
cat > job.py <<'END'
import os
from pathlib import Path
from quarterdeck_workers import report
if "QUARTERDECK_RESUME_DIR" in os.environ:
    print("resumed", Path(os.environ["QUARTERDECK_RESUME_DIR"], "state").read_text(),
          os.environ["QUARTERDECK_RESUME_STEP"])
else:
    Path("out").mkdir()
    Path("out/state").write_text("half way")
    report(5, checkpoint="out")
    report(6, checkpoint="not-there")
END
exec python job.py
"""


def test_folder_of_a_program_is_kept_and_given_to_the_next_attempt(
    recorder: Recorder, machine: Machine, tmp_path: Path
) -> None:
    artifacts = (tmp_path / "artifacts").as_uri()
    first = recorder.submit("keeps", "command", {"command": KEEP}, artifacts_uri=artifacts)
    assert recorder.ended(first).reported_phase == "succeeded"
    manifests = [each for beat in recorder.beats[first] for each in beat.checkpoints]
    assert [(each.step, [file.path for file in each.files]) for each in manifests] == [
        (5, ["state"])
    ]
    events = [event.type for beat in recorder.beats[first] for event in beat.events]
    assert events == ["checkpoint.failed"]
    resume = ResumeFrom(checkpoint_id="ckpt-1", step=5, uri=manifests[0].uri, manifest=manifests[0])
    again = recorder.submit(
        "keeps-again", "command", {"command": KEEP}, artifacts_uri=artifacts, resume=resume
    )
    assert recorder.ended(again).reported_phase == "succeeded"
    assert recorder.lines(again) == ["resumed half way 5"]
