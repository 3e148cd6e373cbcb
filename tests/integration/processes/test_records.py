"""Which processes are ours, and their end, with real ones."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from quarterdeck.processes.children import Child, ChildFailed
from quarterdeck.processes.home import Home
from quarterdeck.processes.records import (
    MARK,
    Record,
    alive,
    end,
    identify,
    marked,
    read_record,
    with_children,
    write_record,
)

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); "
    "time.sleep(600)",
]
PARENT = [
    sys.executable,
    "-c",
    "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', "
    "'import time; time.sleep(600)'], start_new_session=True); print('on', flush=True); "
    "time.sleep(600)",
]


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(SLEEP) as process:
        yield process
        process.kill()


def test_records_come_back(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    home = Home(tmp_path)
    assert read_record(home) is None
    entry = identify("api", sleeper.pid)
    record = Record("http://127.0.0.1:1", "http://127.0.0.1:2", 10, True, (entry,))
    write_record(home, record)
    assert read_record(home) == record
    assert record.named("api") == entry and record.named("agent") is None
    home.processes.write_text('{"api_url": 1')
    assert read_record(home) is None


def test_a_reused_pid_is_not_ours(sleeper: subprocess.Popen[bytes]) -> None:
    entry = identify("api", sleeper.pid)
    assert alive(entry) is not None
    assert alive(replace(entry, created=entry.created - 1)) is None
    sleeper.kill()
    sleeper.wait()
    assert alive(entry) is None


def test_the_stubborn_are_killed_after_the_grace() -> None:
    with subprocess.Popen(STUBBORN, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"on\n"
        waits: list[int] = []
        assert end([psutil.Process(process.pid)], 1.0, waits.append) == []
        process.wait()
    assert waits and set(waits) == {1}


def test_marked_processes_are_found_wherever_they_hang() -> None:
    mark = f"test-{os.getpid()}-{time.time_ns()}"
    with subprocess.Popen(
        PARENT, env={**os.environ, MARK: mark}, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"on\n"
        assert len(with_children([psutil.Process(process.pid)])) == 2
        process.kill()  # its child goes on, as a child of init
        process.wait()
        (orphan,) = marked(mark)
        assert orphan.pid != process.pid
        assert end(marked(mark), 5) == []
    assert marked(mark) == []


def _child(tmp_path: Path, *command: str) -> Child:
    return Child("api", command, dict(os.environ), tmp_path / "api.log")


def test_a_dead_child_comes_back_after_a_pause(tmp_path: Path) -> None:
    child = _child(tmp_path, *SLEEP)
    child.start(now=0.0)
    try:
        first = child.process()
        assert first is not None and child.watch(1.0) is None
        first.kill()
        while child.process() is not None:
            time.sleep(0.01)
        said = child.watch(10.0)
        assert said is not None and "restarting in 0.5 s" in said
        assert child.watch(10.4) is None and child.process() is None
        assert child.watch(10.5) == "api restarted"
        second = child.process()
        assert second is not None and second.pid != first.pid
        assert child.failures == 1
        child.watch(10.5 + 61)
        assert child.failures == 0
    finally:
        end([process for process in [child.process()] if process], 0)
        assert child.process() is None


def test_a_child_that_keeps_failing_is_given_up_with_its_last_words(tmp_path: Path) -> None:
    child = _child(tmp_path, sys.executable, "-c", "print('no such disk'); raise SystemExit(3)")
    now = 0.0
    child.start(now)
    pauses = []
    with pytest.raises(ChildFailed, match="no such disk"):
        while True:
            while child.process() is not None:
                time.sleep(0.01)
            child.watch(now)
            if child.restart_at is not None:
                pauses.append(child.restart_at - now)
                now = child.restart_at
                child.watch(now)
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30]
