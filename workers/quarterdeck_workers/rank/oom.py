"""Whether the kernel has killed for memory: counters of control groups (v2, v1) and of the host."""

from __future__ import annotations

from pathlib import Path

_COUNTER = "oom_kill"


def oom_kills(root: Path = Path("/")) -> int:
    """The sum of all `oom_kill` counters that this process can see; it only ever grows.

    Compare two readings: a difference means that some process of this machine (or control
    group) was killed for memory in between.
    """
    return sum(_counter(file) for file in _files(root))


def _files(root: Path) -> list[Path]:
    files = [root / "proc/vmstat"]
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return files
    groups = root / "sys/fs/cgroup"
    for line in lines:
        number, controllers, path = line.split(":", 2)
        inside = path.lstrip("/")
        if number == "0":
            files += [
                unified / inside / "memory.events" for unified in (groups, groups / "unified")
            ]
        elif "memory" in controllers.split(","):
            files.append(groups / "memory" / inside / "memory.oom_control")
    return files


def _counter(file: Path) -> int:
    try:
        text = file.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return 0
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name == _COUNTER and value.strip().isdigit():
            return int(value)
    return 0
