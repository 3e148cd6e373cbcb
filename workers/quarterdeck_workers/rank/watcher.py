"""The process between a host actor and the rank's process: nothing outlives it.

It forks the rank's process, adopts every orphan below it, and ends all of them when the rank's
process ends, when its actor dies (the `alive` pipe closes) or when it is told to (SIGTERM). If it
is killed itself, the rank's process dies with it. It reports over `status`, one JSON line each:
`pid`, `failure` (too many processes, a full disk), `exit` (code or signal, with the moment),
`gone` (no process is left).
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from quarterdeck_workers.rank.descendants import (
    be_heard,
    become_subreaper,
    crowd,
    die_with_parent,
    end_descendants,
    name_process,
    reap_all,
)
from quarterdeck_workers.rank.launch import Launch
from quarterdeck_workers.rank.oom import oom_kills
from quarterdeck_workers.rank.task_group import TaskGroup
from quarterdeck_workers.rank.workdir import DiskWatch, filled_by, hold, release

_LOOK_MILLISECONDS = 500
_TASKS_PER_PROCESS = 2
"""Threads count in a control group: so much more may there be of them and processes together."""


class _Ended(Exception):
    """SIGTERM came."""


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    raise _Ended


def watch(launch: Launch, descriptors: list[int], run: Callable[[Launch, int], int]) -> NoReturn:
    """Fork the rank's process, watch it, and leave with `os._exit` when nothing of it is left.

    `run(launch, report)` is called in the rank's process and answers its exit code.
    """
    alive, status_descriptor, output, report = descriptors
    code = 1
    try:
        os.setsid()
        name_process(f"qd-watch-{launch.rank}")
        become_subreaper()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        status = socket.socket(fileno=status_descriptor)
        lock = hold(Path(launch.workdir))
        group = TaskGroup.make(launch.most_processes * _TASKS_PER_PROCESS)
        try:
            _watch(launch, group, alive, status, output, report, run)
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            clean = end_descendants(group)
            if group is not None:
                group.remove()
            shutil.rmtree(launch.private, ignore_errors=True)
            release(Path(launch.workdir), lock)
            _tell(status, type="gone", clean=clean)
        code = 0
    finally:
        os._exit(code)


def _watch(
    launch: Launch,
    group: TaskGroup | None,
    alive: int,
    status: socket.socket,
    output: int,
    report: int,
    run: Callable[[Launch, int], int],
) -> None:
    kills = oom_kills()
    watcher = os.getpid()
    pid = os.fork()
    if pid == 0:
        if group is not None:
            group.enter()
        _become_rank(launch, watcher, output, report, run)
    be_heard()
    signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        os.close(output)
        os.close(report)
        _tell(status, type="pid", pid=pid)
        process = os.pidfd_open(pid)
        poller = select.poll()
        poller.register(alive, select.POLLIN | select.POLLHUP)
        poller.register(process, select.POLLIN)
        disk = DiskWatch(Path(launch.workdir))
        events: set[int] = set()
        while not events:
            events = {descriptor for descriptor, _ in poller.poll(_LOOK_MILLISECONDS)}
            if events:
                break
            if what := _too_many(launch, group):
                if group is not None:
                    group.close()
                _blame_user(status, f"rank {launch.rank} {what}: all were ended")
                return
            if what := disk.look():
                _blame_user(status, f"rank {launch.rank} was ended before others suffer: {what}")
                return
        if process in events:
            _, result = os.waitpid(pid, 0)
            code = os.waitstatus_to_exitcode(result)
            _tell(
                status, type="exit", at=time.time(), code=code if code >= 0 else None,
                signal=-code if code < 0 else None, oom=oom_kills() > kills,
                filled=filled_by(Path(launch.workdir)) if code else "",
            )  # fmt: skip
    except _Ended:
        pass
    reap_all()


def _blame_user(status: socket.socket, message: str) -> None:
    _tell(
        status, type="failure", at=time.time(), blame="user_code", traceback="", message=message
    )  # fmt: skip


def _too_many(launch: Launch, group: TaskGroup | None) -> str:
    most = launch.most_processes
    if group is not None:
        with suppress(OSError, ValueError):
            if group.refused():
                tasks = most * _TASKS_PER_PROCESS
                return f"started more than {most} processes, or {tasks} with their threads"
    count = crowd(most)
    return f"had {count} processes, more than {most}" if count > most else ""


def _tell(status: socket.socket, **message: Any) -> None:
    with suppress(OSError):  # the actor may be gone: nobody to tell
        status.sendall(json.dumps(message).encode() + b"\n")


def _become_rank(
    launch: Launch, watcher: int, output: int, report: int, run: Callable[[Launch, int], int]
) -> NoReturn:
    code = 1
    try:
        os.setsid()
        name_process(f"qd-rank-{launch.rank}")
        die_with_parent()
        if os.getppid() != watcher:
            os._exit(1)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        _close_all_but({0, 1, 2, report})
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        code = run(launch, report)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        import sys

        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _close_all_but(keep: set[int]) -> None:
    for entry in list(Path("/proc/self/fd").iterdir()):
        if int(entry.name) not in keep:
            with suppress(OSError):
                os.close(int(entry.name))
