"""Killing each part of a run: nothing may be left, and the story must be honest."""

from __future__ import annotations

import os
import signal
import time

import psutil
from conftest import Machine, marked
from worker_recorder import Recorder

FAMILY = """
setsid sleep 600 & nohup sleep 601 >/dev/null 2>&1 &
python -c "
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(602)
    os._exit(0)
time.sleep(603)
" &
echo family; sleep 604
"""
"""A command with daemons of every sort: own session, nohup, double fork."""


def family(pids: list[int]) -> list[psutil.Process]:
    """The ranks' processes with their watchers' other children: orphans hang below the watcher."""
    found: dict[int, psutil.Process] = {}
    for pid in pids:
        watcher = psutil.Process(pid).parent()
        assert watcher is not None
        found[watcher.pid] = watcher
        found.update({child.pid: child for child in watcher.children(recursive=True)})
    return list(found.values())


def started_family(recorder: Recorder, run: str, ranks: int) -> list[psutil.Process]:
    recorder.wait(lambda: recorder.lines(run).count("family") == ranks)
    time.sleep(0.5)  # the daemons detach themselves
    processes = family(recorder.pids(run))
    assert len(processes) >= 6 * ranks
    return processes


def gone(processes: list[psutil.Process], recorder: Recorder) -> bool:
    return bool(recorder.wait(lambda: not any(each.is_running() for each in processes), 15))


def test_killed_rank_is_the_first_failure_and_takes_the_gang_along(
    recorder: Recorder, machine: Machine
) -> None:
    run = recorder.submit("rank-killed", "command", {"command": FAMILY}, ranks=2)
    processes = started_family(recorder, run, 2)
    os.kill(recorder.pids(run)[1], signal.SIGKILL)
    final = recorder.ended(run)
    assert final.reported_phase == "failed"
    assert final.failure is not None
    assert (final.failure.rank, final.failure.signal) == (1, signal.SIGKILL)
    assert final.failure.blame == "unknown"
    assert gone(processes, recorder)


def test_failing_rank_is_named_with_its_last_words(recorder: Recorder, machine: Machine) -> None:
    command = "if [ $RANK = 1 ]; then echo no such tensor >&2; exit 7; fi; sleep 600"
    run = recorder.submit("rank-fails", "command", {"command": command}, ranks=2)
    failure = recorder.ended(run).failure
    assert failure is not None
    assert (failure.rank, failure.exit_code, failure.blame) == (1, 7, "user_code")
    assert "no such tensor" in failure.traceback


def test_killed_supervisor_leaves_no_process(recorder: Recorder, machine: Machine) -> None:
    run = recorder.submit("supervisor-killed", "command", {"command": FAMILY}, ranks=2)
    processes = started_family(recorder, run, 2)
    recorder.wait(lambda: recorder.sighting(run) == "alive")
    supervisors = [pid for pid, words in marked(machine.home) if "Supervisor" in words]
    assert len(supervisors) == 1
    os.kill(supervisors[0], signal.SIGKILL)
    assert gone(processes, recorder)
    recorder.wait(lambda: recorder.sighting(run) == "dead")


def test_killed_watcher_is_noticed(recorder: Recorder, machine: Machine) -> None:
    run = recorder.submit("watcher-killed", "command", {"command": "sleep 600"})
    rank = psutil.Process(recorder.pids(run)[0])
    watcher = rank.parent()
    assert watcher is not None
    watcher.kill()
    failure = recorder.ended(run).failure
    assert failure is not None
    assert failure.blame == "unknown"
    assert gone([rank], recorder)


def test_agent_killed_and_restarted_finds_the_run_alive(
    recorder: Recorder, machine: Machine
) -> None:
    run = recorder.submit("agent-killed", "command", {"command": "echo up; sleep 600"}, ranks=2)
    pids = recorder.pids(run)
    first = recorder.agent_beats[-1].agent_id
    machine.kill_agent()
    beats = len(recorder.beats[run])
    recorder.wait(lambda: len(recorder.beats[run]) >= beats + 2)
    machine.start()
    recorder.wait(lambda: recorder.agent_beats[-1].agent_id != first)
    recorder.wait(lambda: recorder.sighting(run) == "alive")
    assert recorder.claims.count(run) == 1
    assert recorder.pids(run) == pids
    processes = family(pids)
    recorder.killing[run] = 1
    assert gone(processes, recorder)
    recorder.wait(lambda: recorder.sighting(run) == "dead")
    del recorder.killing[run]


def test_run_missing_from_every_list_is_left_alone(recorder: Recorder, machine: Machine) -> None:
    run = recorder.submit("forgotten", "command", {"command": "sleep 600"})
    pid = recorder.pids(run)[0]
    order, claim = recorder.orders.pop(run), recorder.claimed.pop(run)
    beats = len(recorder.agent_beats)
    recorder.wait(lambda: len(recorder.agent_beats) > beats + 4)
    assert psutil.pid_exists(pid)
    recorder.orders[run], recorder.claimed[run] = order, claim
    recorder.reply(run, "die")
    recorder.wait(lambda: not psutil.pid_exists(pid))


def test_supervisor_that_comes_back_with_an_old_epoch_tells_nothing_more(
    recorder: Recorder, machine: Machine
) -> None:
    """It slept while its run was given up: its ranks went on, and end when it wakes."""
    command = "while true; do echo tick; sleep 0.1; done"
    run = recorder.submit("old-epoch", "command", {"command": command})
    rank = psutil.Process(recorder.pids(run)[0])
    recorder.wait(lambda: recorder.sighting(run) == "alive")
    words = [(pid, words) for pid, words in marked(machine.home) if "Supervisor" in words]
    assert len(words) == 1
    supervisor = psutil.Process(words[0][0])
    supervisor.suspend()
    try:
        recorder.wait(lambda: recorder.sighting(run) == "unknown", 30)
        assert rank.is_running(), "unknown is not dead"
        beats = len(recorder.beats[run])
        recorder.stale.add(run)
    finally:
        supervisor.resume()
    assert gone([rank, supervisor], recorder)
    assert len(recorder.beats[run]) == beats
    recorder.wait(lambda: recorder.sighting(run) == "dead")


def test_stale_epoch_ends_the_gang(recorder: Recorder, machine: Machine) -> None:
    run = recorder.submit("stale", "command", {"command": FAMILY}, ranks=1)
    processes = started_family(recorder, run, 1)
    recorder.stale.add(run)
    assert gone(processes, recorder)
