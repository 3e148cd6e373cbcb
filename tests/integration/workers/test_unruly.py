"""Scripts that do what they should not: each ends with a clear outcome, and nothing is left."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from worker_recorder import Recorder

from quarterdeck_workers.rank.process import RankProcess
from quarterdeck_workers.rank.task_group import TaskGroup

sys.path.insert(0, str(Path(__file__).parent))
from test_process import finish, launch

DAEMON = """
import os, signal, sys, time
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
for depth in range(3):
    if os.fork(): os._exit(0)
    os.setsid()
for descriptor in range(256):
    try: os.close(descriptor)
    except OSError: pass
open(sys.argv[1], "a").write(f"{os.getpid()}\\n")
os.environ.clear()
time.sleep(600)
"""


def alive(file: Path, count: int) -> list[int]:
    pids = [int(line) for line in file.read_text().splitlines()]
    assert len(pids) == count
    return [pid for pid in pids if psutil.pid_exists(pid)]


def test_more_processes_than_allowed_end_the_rank_and_all_of_them(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    script = "for i in $(seq 80); do (setsid sleep 600 & echo $! >> pids); done; sleep 600"
    process = RankProcess(launch(tmp_path, command=script, most_processes=50))
    pids = tmp_path / "work" / "pids"
    process.start(None)
    seen: set[int] = set()
    deadline = time.monotonic() + 60
    while not process.gone.is_set() and time.monotonic() < deadline:
        if pids.exists():
            seen |= {int(line) for line in pids.read_text().split() if line.isdigit()}
        time.sleep(0.02)
    news = finish(process)
    (failure,) = [message for message in news.messages if message["type"] == "failure"]
    assert failure["blame"] == "user_code" and "more than 50" in failure["message"]
    assert len(seen) > 40 and not [pid for pid in seen if psutil.pid_exists(pid)]


BOMB = 40
"""Processes: a bomb of a size that harms nobody."""


def test_a_fork_bomb_meets_its_bound_and_is_gone(tmp_path: Path) -> None:
    if (group := TaskGroup.make(1)) is None:
        pytest.skip("no control group can be made here: nothing would hold the bomb")
    group.remove()
    (tmp_path / "work").mkdir()
    bomb = "bomb() { bomb | bomb & }; bomb; sleep 600"
    process = RankProcess(launch(tmp_path, command=bomb, most_processes=BOMB))
    process.start(None)
    most, deadline = 0, time.monotonic() + 60
    while not process.gone.is_set() and time.monotonic() < deadline:
        most = max(most, len(bombs(tmp_path)))
        time.sleep(0.02)
    news = finish(process)
    (failure,) = [message for message in news.messages if message["type"] == "failure"]
    assert failure["blame"] == "user_code" and f"more than {BOMB}" in failure["message"]
    assert news.messages[-1]["clean"] and 0 < most <= 2 * BOMB
    assert bombs(tmp_path) == []


def bombs(folder: Path) -> list[int]:
    """Processes that run below a folder."""
    found = []
    for each in psutil.process_iter():
        try:
            if Path(each.cwd()).is_relative_to(folder):
                found.append(each.pid)
        except psutil.Error:
            pass
    return found


@pytest.mark.parametrize("ending", ["true", "false", "kill -9 $$", "sleep 600"])
def test_daemons_of_any_depth_are_gone_with_the_rank(tmp_path: Path, ending: str) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "daemon.py").write_text(DAEMON)
    pids = tmp_path / "pids"
    start = (
        f"python {tmp_path}/daemon.py {pids} & nohup setsid python {tmp_path}/daemon.py {pids} &"
    )
    waiting = f"until [ $(wc -l < {pids}) = 2 ]; do sleep 0.05; done"
    process = RankProcess(launch(tmp_path, command=f"touch {pids}; {start} {waiting}; {ending}"))
    process.start(None)
    if ending == "sleep 600":
        deadline = time.monotonic() + 60
        while pids.exists() is False or len(pids.read_text().splitlines()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.kill()
    news = finish(process, 60)
    assert news.messages[-1] == {**news.messages[-1], "type": "gone", "clean": True}
    assert alive(pids, 2) == []


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A disk of its own at `folder`; skips the test where none can be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("this user cannot mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_a_run_has_filled_is_told_from_one_that_was_full(tmp_path: Path) -> None:
    with small_disk(tmp_path / "work", "8m") as disk:
        said = []
        for others in (1, 7):
            (disk / "others").write_bytes(b"x" * others * 2**20)
            (disk / "mine").mkdir()
            command = f"cat /dev/zero > {disk}/mine/big; exit 1"
            started = replace(launch(tmp_path, command=command), workdir=str(disk / "mine"))
            process = RankProcess(started)
            process.start(None)
            (end,) = [one for one in finish(process).messages if one["type"] == "exit"]
            said.append(end["filled"])
            shutil.rmtree(disk / "mine", ignore_errors=True)
        assert said == ["7 MiB of its own files fill a disk of 8 MiB", ""]


def test_a_run_that_fills_a_disk_ends_before_the_others_have_no_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "work", "40m") as disk:
        (disk / "mine").mkdir()
        command = f"head -c 39M /dev/zero > {disk}/mine/big; sleep 600"
        started = replace(launch(tmp_path, command=command), workdir=str(disk / "mine"))
        process = RankProcess(started)
        process.start(None)
        news = finish(process, 60)
        (failure,) = [one for one in news.messages if one["type"] == "failure"]
        assert failure["blame"] == "user_code"
        assert "39 MiB of its own files fill a disk of 40 MiB" in failure["message"]
        assert news.messages[-1] == {**news.messages[-1], "type": "gone", "clean": True}


def ended(recorder: Recorder, name: str, command: str, **fields: Any) -> Any:
    ranks = fields.pop("ranks", 1)
    spec = {"command": command, **fields}
    return recorder.ended(recorder.submit(name, "command", spec, ranks=ranks))


def test_a_rank_that_ends_well_while_the_others_wait_in_silence(
    recorder: Recorder, machine: object
) -> None:
    waits = "if [ $RANK = 1 ]; then exit 0; fi; sleep 600"
    final = ended(recorder, "left", waits, ranks=3, exit_grace=2)
    assert (final.failure.rank, final.failure.blame) == (1, "user_code")
    assert "while 0, 2 went on and said nothing for 2 s" in final.failure.message
    works = "if [ $RANK = 1 ]; then exit 0; fi; for i in 1 2 3 4 5 6; do echo $i; sleep 1; done"
    assert ended(recorder, "busy", works, ranks=2, exit_grace=4).reported_phase == "succeeded"


def test_a_full_disk_is_blamed_on_the_disk(recorder: Recorder, machine: object) -> None:
    failure = ended(recorder, "full", "set -e; echo x > /dev/full").failure
    assert failure.blame == "disk" and "No space left" in failure.traceback
    python = "python -c \"open('/dev/full', 'w').write('x' * 99999)\""
    assert ended(recorder, "full-2", python).failure.blame == "disk"


def test_binary_and_endless_lines_harm_nobody(recorder: Recorder, machine: object) -> None:
    command = "head -c 3000000 /dev/urandom; head -c 3000000 /dev/zero; echo; echo the end"
    final = ended(recorder, "binary", command)
    assert final.reported_phase == "succeeded"
    assert recorder.lines("binary")[-1] == "the end"
