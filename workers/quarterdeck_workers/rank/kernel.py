"""What the kernel tells of a rank's processes and pipes."""

from __future__ import annotations

import fcntl
import os
import sys
import termios
from contextlib import suppress
from pathlib import Path

from quarterdeck_workers.rank.descendants import descendants


def unread_bytes(pipe: int) -> int:
    """Bytes that wait in a pipe."""
    answer = fcntl.ioctl(pipe, termios.FIONREAD, bytes(4))
    return int.from_bytes(answer, sys.byteorder)


def resident_bytes(pid: int) -> int:
    """Memory of a process; 0 when it is gone."""
    try:
        text = Path(f"/proc/{pid}/statm").read_text(encoding="ascii")
        return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def kernel_view(pid: int) -> str:
    """State and command line of a process and of all below it, one a line."""
    lines = []
    for each in (pid, *descendants(pid)):
        with suppress(OSError):
            folder = Path(f"/proc/{each}")
            words = folder.joinpath("cmdline").read_bytes().decode("utf-8", "replace")
            state = folder.joinpath("stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            place = folder.joinpath("wchan").read_text(encoding="ascii") or "0"
            command = words.replace("\0", " ").strip()[:200]
            lines.append(f"pid {each} state {state[0]} in {place}: {command}")
    return "\n".join(lines)
