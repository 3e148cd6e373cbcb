"""The fault tool finds what is ours and nothing else, refuses the rest, and plays its faults."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from quarterdeck.processes import chaos
from quarterdeck.processes.chaos_link import Link
from quarterdeck.processes.chaos_targets import RAY_MARK, Target, chosen, targets
from quarterdeck.processes.chaos_watch import Recovery, hear, table
from quarterdeck.processes.home import Home, prepare
from quarterdeck.processes.records import Record, Recorded, identify, write_record
from quarterdeck.specs.resources import Event

SLEEP = "import time; time.sleep(60)"
WATCHER = """
import ctypes, subprocess, sys, time
ctypes.CDLL(None).prctl(15, b"qd-watch-3", 0, 0, 0)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / ".quarterdeck")
    prepare(home)
    return home


@pytest.fixture
def start() -> Iterator[object]:
    started: list[subprocess.Popen[str]] = []

    def start(code: str, **variables: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code], env={**os.environ, **variables}, text=True,
            stdout=subprocess.PIPE,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        for child in psutil.Process(process.pid).children() if process.poll() is None else []:
            child.kill()
        process.kill()
        process.communicate()


def record(home: Home, *entries: Recorded, url: str = "http://127.0.0.1:1") -> None:
    write_record(home, Record(url, "http://127.0.0.1:2", 1, True, entries))


def test_only_recorded_and_marked_processes_are_found(home: Home, start) -> None:  # type: ignore[no-untyped-def]
    api, foreign = start(SLEEP), start(SLEEP)
    watcher = start(WATCHER, **{RAY_MARK: str(home.folder), "QUARTERDECK_OWNER": "x"})
    start(WATCHER, **{RAY_MARK: "/somebody/elses", "QUARTERDECK_OWNER": "x"}).stdout.readline()
    rank = int(watcher.stdout.readline())
    old = Recorded("controller", foreign.pid, 12345.0)  # its pid belongs to another program now
    record(home, identify("api", api.pid), old)
    (home.ray / "ray.json").write_text(json.dumps({"processes": [[foreign.pid, 1.0]]}))
    found = {(target.kind, target.pids, target.owner, target.rank) for target in targets(home)}
    assert found == {
        ("api", str(api.pid), "", None),
        ("rank", str(rank), "job/x", 3),
        ("ranks", str(rank), "job/x", None),
    }
    assert chosen(targets(home), "rank", job="job/y") == []
    assert len(chosen(targets(home), "rank", job="job/x", rank=3)) == 1


def test_other_installations_are_refused(home: Home, start) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(chaos.ChaosRefused, match="runs on this machine"):
        chaos.require_local(home, {})
    mine = identify("api", start(SLEEP).pid)
    record(home, mine)
    assert chaos.require_local(home, {"QUARTERDECK_URL": "http://127.0.0.1:1/"}).slots == 1
    with pytest.raises(chaos.ChaosRefused, match="QUARTERDECK_URL is https://far"):
        chaos.require_local(home, {"QUARTERDECK_URL": "https://far"})
    record(home, mine, url="http://10.0.0.5:8080")
    with pytest.raises(chaos.ChaosRefused, match="not on the loopback"):
        chaos.require_local(home, {})


def test_held_process_goes_on(start) -> None:  # type: ignore[no-untyped-def]
    process = psutil.Process(start(SLEEP).pid)
    target = Target("api", (process,))
    thread = threading.Thread(target=chaos.hold, args=(target, 0.5))
    thread.start()
    deadline = time.monotonic() + 5
    while process.status() != psutil.STATUS_STOPPED and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.status() == psutil.STATUS_STOPPED
    thread.join()
    assert process.status() != psutil.STATUS_STOPPED
    assert chaos.strike(target, signal.SIGKILL)
    process.wait(5)
    assert not chaos.strike(target, signal.SIGKILL)


def test_seed_means_one_series_whatever_lives() -> None:
    some = [Target("api", (), rank=1), Target("rank", (), rank=1), Target("rank", (), rank=2)]
    kinds = ["rank", "api", "gcs"]
    first, second = random.Random(5), random.Random(5)
    series = [chaos.pick(some, kinds, first) for _ in range(40)]
    assert [kind for kind, _ in series] == [chaos.pick([], kinds, second)[0] for _ in range(40)]
    assert {kind for kind, _ in series} == set(kinds)
    assert all((target is None) == (kind == "gcs") for kind, target in series)


def test_slow_disk_holds_up_writers(tmp_path: Path) -> None:
    file = tmp_path / "x.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE t (x)")
    thread = threading.Thread(target=chaos.slow_disk, args=(file, 1.0, 0.9, 1.0))
    thread.start()
    time.sleep(0.3)
    with closing(sqlite3.connect(file, timeout=0.05)) as connection:
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            connection.execute("INSERT INTO t VALUES (1)")
        thread.join()
        connection.execute("INSERT INTO t VALUES (1)")
    with pytest.raises(chaos.ChaosRefused, match="PostgreSQL"):
        url = {"QUARTERDECK_DATABASE_URL": "postgresql+psycopg://h/d"}
        chaos.database_file(Home(tmp_path), url)
    with pytest.raises(chaos.ChaosRefused, match="No such file"):
        missing = {"QUARTERDECK_DATABASE_URL_FILE": str(tmp_path / "url")}
        chaos.database_file(Home(tmp_path), missing)


def test_cut_link_holds_both_directions_and_loses_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with Link("127.0.0.1", 0, "127.0.0.1", port) as link:
            here = socket.create_connection(("127.0.0.1", link.port), timeout=5)
            there, _ = server.accept()
            there.settimeout(5)
            here.sendall(b"one")
            assert there.recv(10) == b"one"
            link.cut()
            time.sleep(0.1)
            here.sendall(b"two")
            there.sendall(b"three")
            for silent in (here, there):
                silent.settimeout(0.3)
                with pytest.raises(TimeoutError):
                    silent.recv(10)
                silent.settimeout(5)
            link.mend()
            assert (there.recv(10), here.recv(10)) == (b"two", b"three")
            here.close()
            assert there.recv(10) == b""
            there.close()


def event(at: float, type_: str, to: str, epoch: int, subject: str = "job/x") -> Event:
    return Event(
        id=1, type=type_, subject=subject, subject_id="", project="default", message="",
        actor="controller", data={"to": to, "epoch": epoch}, at=datetime.fromtimestamp(at, UTC),
    )  # fmt: skip


def test_recovery_is_the_end_of_what_was_hit_and_a_later_attempt() -> None:
    fault = chaos.Fault(1, "rank", "KILL", 100.0, "rank 0 of job/x", "job/x", 2)
    recovery = Recovery(fault, frozenset())
    for each in (
        event(99.0, "run.phase", "failed", 2),
        event(100.5, "run.phase", "failed", 2, "job/y"),
        event(101.0, "run.phase", "running", 2),
    ):
        hear(recovery, each)
    assert (recovery.noticed, recovery.resumed) == (None, None)
    hear(recovery, event(102.0, "run.phase", "failed", 2))
    hear(recovery, event(103.0, "run.phase", "starting", 3))
    assert (recovery.notice_seconds, recovery.over) == (2.0, False)
    hear(recovery, event(104.0, "run.phase", "running", 3))
    assert (recovery.resume_seconds, recovery.over) == (4.0, True)
    ended = Recovery(fault, frozenset())
    hear(ended, event(101.0, "job.phase", "succeeded", 2))
    assert (ended.over, ended.resumed) == (True, None)
    assert table([recovery, ended]) == [
        ["rank", "KILL", "2", "2.0s", "2.0s", "4.0s", "4.0s", "0"]
    ]  # fmt: skip


def test_what_does_not_say_whose_it_is_is_not_waited_for() -> None:
    assert Recovery(chaos.Fault(1, "supervisor", "KILL", 100.0, "supervisor"), frozenset()).over
    assert not Recovery(chaos.Fault(2, "agent", "KILL", 100.0, "agent"), frozenset()).over


def test_a_job_that_had_just_ended_is_not_waited_for() -> None:
    late = Recovery(chaos.Fault(1, "host", "KILL", 100.0, "host of job/x", "job/x", 1), frozenset())
    hear(late, event(99.5, "job.phase", "succeeded", 1, "job/y"))
    assert not late.over
    hear(late, event(99.5, "job.phase", "succeeded", 1))
    assert late.over
