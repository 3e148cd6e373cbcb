"""Linux: a control group of the `pids` controller around one rank, where the machine allows one.

The kernel then refuses what goes beyond the bound, however fast a program forks, and a group whose
bound is zero can be emptied in one pass. Version 1 needs a writable hierarchy; of version 2 only a
group is used that hands `pids` to its children already: nobody's set-up is changed.
https://docs.kernel.org/admin-guide/cgroup-v1/pids.html, …/admin-guide/cgroup-v2.html#pid
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_PREFIX = "quarterdeck-rank-"


class TaskGroup:
    """The group of one rank; `make` it, `enter` it in the rank's process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @staticmethod
    def make(most: int, root: Path = Path("/")) -> TaskGroup | None:
        """A group of this process for at most `most` processes and threads; None where the
        machine does not allow it."""
        try:
            base = _own_group(root)
            if base is None:
                return None
            _remove_left(base)
            folder = base / f"{_PREFIX}{os.getpid()}"
            folder.mkdir()
        except (OSError, ValueError):
            return None
        group = TaskGroup(folder)
        try:
            (folder / "pids.max").write_text(str(most))
            group.refused()
        except (OSError, ValueError):
            group.remove()
            return None
        return group

    def enter(self) -> None:
        """Move this process there; all that it starts stays there."""
        with suppress(OSError):
            (self._folder / "cgroup.procs").write_text(str(os.getpid()))

    def refused(self) -> int:
        """How many times the kernel refused to start something here."""
        words = (self._folder / "pids.events").read_text().split()
        return int(words[words.index("max") + 1])

    def close(self) -> None:
        """Let nothing start here any more."""
        with suppress(OSError):
            (self._folder / "pids.max").write_text("0")

    def pids(self) -> list[int]:
        """The processes in it."""
        try:
            return [int(line) for line in (self._folder / "cgroup.procs").read_text().split()]
        except OSError:
            return []

    def remove(self) -> None:
        """Remove the empty group."""
        with suppress(OSError):
            self._folder.rmdir()


def _own_group(root: Path) -> Path | None:
    """The folder of this process's own group, below which `pids` can be bounded."""
    mounts = (root / "proc/self/mountinfo").read_text().splitlines()
    groups = (root / "proc/self/cgroup").read_text().splitlines()
    own = {}
    for line in groups:
        number, controllers, path = line.split(":", 2)
        if number == "0" or "pids" in controllers.split(","):
            own["cgroup2" if number == "0" else "cgroup"] = path
    for line in mounts:
        before, _, after = line.partition(" - ")
        top, mounted = before.split()[3:5]
        kind, _, options = after.split()[:3]
        if kind not in own or (kind == "cgroup" and "pids" not in options.split(",")):
            continue
        if top != "/" and not f"{own[kind]}/".startswith(f"{top}/"):
            continue
        inside = own[kind] if top == "/" else own[kind].removeprefix(top)
        folder = root / mounted.lstrip("/") / inside.lstrip("/")
        shared = folder / "cgroup.subtree_control"
        if kind == "cgroup" or "pids" in shared.read_text().split():
            return folder
    return None


def _remove_left(base: Path) -> None:
    """Groups of watchers that were killed; those that are not empty stay."""
    for folder in base.glob(f"{_PREFIX}*"):
        if not Path(f"/proc/{folder.name.removeprefix(_PREFIX)}").exists():
            with suppress(OSError):
                folder.rmdir()
