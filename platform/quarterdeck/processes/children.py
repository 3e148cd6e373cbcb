"""The child processes of `up`: started, adopted, watched, restarted with back-off."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from quarterdeck.processes.records import Recorded, alive, identify

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
STABLE_AFTER = 60.0
"""Seconds of life after which earlier failures are forgotten."""
REAP_SECONDS = 5.0
MOST_FAILURES = 8
MOST_FAILURES_AT_START = 2
"""While nobody relies on it yet, a child that cannot start should be said soon."""


class ChildFailed(Exception):
    """A child ended too often; the message names its log."""


@dataclass
class Child:
    """One child process and what is needed to start it again."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    recorded: Recorded | None = None
    failures: int = 0
    started_at: float = 0.0
    restart_at: float | None = None
    _popen: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self, now: float) -> None:
        """Start it in a session of its own: it outlives us and hears no Ctrl-C."""
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                self.command, env=dict(self.environment), stdin=subprocess.DEVNULL,
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.recorded = identify(self.name, self._popen.pid)
        self.started_at, self.restart_at = now, None

    def adopt(self, entry: Recorded, now: float) -> None:
        """Take over a living process that an earlier `up` started."""
        self.recorded, self.started_at, self.restart_at = entry, now, None

    def process(self) -> psutil.Process | None:
        """The living process, reaping a dead one."""
        if self._popen is not None and self._popen.poll() is not None:
            return None
        return alive(self.recorded)

    def reap(self) -> None:
        """Take leave of a process that was ended."""
        if self._popen is not None:
            with suppress(subprocess.TimeoutExpired):
                self._popen.wait(REAP_SECONDS)

    def watch(self, now: float, most_failures: int = MOST_FAILURES) -> str | None:
        """Look after it once: plan or do a restart. Answers what is worth telling.

        Raises ChildFailed after more than `most_failures`, each within a minute of life.
        """
        if self.process() is not None:
            if self.failures and now - self.started_at > STABLE_AFTER:
                self.failures = 0
            return None
        if self.restart_at is None:
            self.failures += 1
            if self.failures > most_failures:
                raise ChildFailed(
                    f"{self.name} ended {self.failures} times; its last words in {self.log}:\n"
                    f"{tail(self.log)}"
                )
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (self.failures - 1))
            self.restart_at = now + pause
            return f"{self.name} ended; restarting in {pause:g} s ({self.log})"
        if now >= self.restart_at:
            self.start(now)
            return f"{self.name} restarted"
        return None


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log, indented."""
    try:
        with log.open("rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - 16_384))
            text = stream.read().decode(errors="replace")
    except OSError:
        return "  (no log)"
    return "\n".join(f"  {line}" for line in text.splitlines()[-lines:])


def watch_all(
    children: Sequence[Child],
    now: float,
    tell: Callable[[str], None],
    most_failures: int = MOST_FAILURES,
) -> bool:
    """Watch every child once; True when some process was replaced (the record must change)."""
    before = [child.recorded for child in children]
    for child in children:
        if said := child.watch(now, most_failures):
            tell(said)
    return before != [child.recorded for child in children]
