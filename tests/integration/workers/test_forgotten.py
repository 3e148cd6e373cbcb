"""A control plane that was restored from a backup asks what lives; nothing is killed for it."""

from __future__ import annotations

import hashlib

import psutil
from worker_recorder import Recorder

from quarterdeck.specs.protocol import Stranger


def strangers(recorder: Recorder, generation: int) -> list[Stranger] | None:
    """Those of the newest beat that tells of them under `generation`."""
    for beat in reversed(recorder.agent_beats[-50:]):
        if beat.generation == generation:
            return beat.strangers
    return None


def test_a_supervisor_that_was_forgotten_says_whose_it_is(
    recorder: Recorder, machine: object
) -> None:
    spec = {"command": "sleep 300", "secrets": [{"name": "TOKEN"}]}
    run = recorder.submit("run-forgotten", "command", spec, secrets={"TOKEN": "hunter2"})
    recorder.wait(lambda: recorder.phase(run) == "running")
    (pid,) = recorder.pids(run)
    order, claimed = recorder.orders.pop(run), recorder.claimed.pop(run)
    recorder.generation = 7
    found = recorder.wait(lambda: strangers(recorder, 7))
    (mine,) = [each for each in found if each.run_id == run]
    assert mine.epoch == 1 and mine.report is not None
    assert mine.report.owner_id == order.owner_id and mine.report.spec == spec
    assert mine.report.placements == order.placements
    assert mine.report.key_sha256 == hashlib.sha256(order.run_key.encode()).hexdigest()
    told = mine.model_dump_json()
    assert "hunter2" not in told and order.run_key not in told
    assert psutil.pid_exists(pid), "what nobody lists is not killed"

    recorder.orders[run], recorder.claimed[run] = order, claimed
    recorder.generation = 8
    recorder.wait(lambda: strangers(recorder, 8) is not None)
    assert run not in [each.run_id for each in strangers(recorder, 8) or []]
    recorder.reply(run, "stop", deadline=2.0)
    assert recorder.ended(run).reported_phase == "cancelled"
