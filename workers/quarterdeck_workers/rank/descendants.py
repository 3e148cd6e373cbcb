"""Linux: adopt every orphan below a process, and end all that lives there."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from quarterdeck_workers.rank.task_group import TaskGroup

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36


def _prctl(option: int, value: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(option, value, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl({option}): {os.strerror(code)}")


def become_subreaper() -> None:
    """Orphans of any depth become children of this process: daemons cannot slip away."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """SIGKILL this process when the *thread* that forked it ends; only for parents that fork
    from their only thread."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def name_process(name: str) -> None:
    """What `ps` and `top` show of this process: at most 15 bytes."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def children_by_parent() -> dict[int, list[int]]:
    """All processes of this machine's pid namespace by their parent."""
    found: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with suppress(OSError, ValueError, IndexError):
                stat = Path(entry.path, "stat").read_text(encoding="ascii", errors="replace")
                parent = int(stat.rpartition(")")[2].split()[1])
                found.setdefault(parent, []).append(int(entry.name))
    return found


def descendants(pid: int) -> list[int]:
    """Pids of all processes below `pid`, parents before children."""
    tree = children_by_parent()
    found: list[int] = []
    waiting = list(tree.get(pid, ()))
    while waiting:
        child = waiting.pop()
        found.append(child)
        waiting.extend(tree.get(child, ()))
    return found


def tasks_of_machine() -> int:
    """Processes and threads of the machine (or container), read from one file."""
    text = Path("/proc/loadavg").read_text(encoding="ascii")
    return int(text.split()[3].partition("/")[2])


def crowd(most: int) -> int:
    """How many processes are below this one where there may be more than `most`; else 0."""
    try:
        if tasks_of_machine() <= most:
            return 0
    except (OSError, ValueError, IndexError):
        pass  # then they are counted
    return len(descendants(os.getpid()))


def be_heard() -> None:
    """Come before thousands that fork, where this user may."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, -20)


def end_descendants(group: TaskGroup | None = None, timeout: float = 20.0) -> bool:
    """SIGKILL and reap all processes below this one, which must be a subreaper.

    Nothing new starts in `group`; without one all are stopped before they are killed, so that
    none forks faster than it is killed. True when none is left; False when the same ones have
    been left for `timeout` seconds (stuck in the kernel).
    """
    me = os.getpid()
    be_heard()
    known: set[int] = set()
    deadline = time.monotonic() + timeout
    while True:
        if group is not None:
            group.close()
        below = [*(group.pids() if group is not None else ()), *descendants(me)]
        if not known.issuperset(below):
            known.update(below)
            deadline = time.monotonic() + timeout
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in below:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
        if reap_all():
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)


def reap_all() -> bool:
    """Reap children that have ended; True when no child is left at all."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return True
        if pid == 0:
            return False
