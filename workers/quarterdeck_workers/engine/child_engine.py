"""An engine that is a program of its own: started, heard, asked to end. Below the rank's process,
so whatever ends the rank ends it too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

from quarterdeck_workers.engine.adapters import Adapter, CommandLine
from quarterdeck_workers.engine.engine_failures import EngineFailed, OutputMemory, why_ended
from quarterdeck_workers.engine.start_progress import StartProgress
from quarterdeck_workers.rank.oom import oom_kills

_LONGEST_LINE = 16 * 2**10
_FIND_SECONDS = 60.0
_LAST_LINES_SECONDS = 2.0
_OWN_VARIABLES = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "OMP_NUM_THREADS")
"""Of this process, which would lead another interpreter to this one's packages or to one thread."""


class ChildEngine:
    """A running program; `start` it once. `alive` and `failure` tell how it is."""

    def __init__(self, command: CommandLine, adapter: Adapter, progress: StartProgress) -> None:
        self._command = command
        self._adapter = adapter
        self._progress = progress
        self._memory = OutputMemory()
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._kills = 0

    def start(self, given: Mapping[str, str]) -> None:
        """Start it with `given` variables on top of the rank's own. Raises EngineFailed."""
        environment = {n: v for n, v in os.environ.items() if n not in _OWN_VARIABLES}
        environment.update(self._command.variables)
        environment.update(given)
        environment["PYTHONUNBUFFERED"] = "1"
        if self._command.module:
            _check_module(self._command, environment)
        self._kills = oom_kills()
        try:
            self._process = subprocess.Popen(
                self._command.words, env=environment, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, process_group=0,
            )  # fmt: skip
        except OSError as error:
            raise EngineFailed("EngineMissing", f"{self._command.words[0]}: {error}") from error
        assert self._process.stdout is not None
        self._reader = threading.Thread(
            target=self._read, args=(self._process.stdout,), name="engine-output", daemon=True
        )
        self._reader.start()

    @property
    def pid(self) -> int:
        """Its process, and its process group."""
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def activity(self) -> tuple[int, int]:
        """Grows while it does anything: lines written, processor time of its group in ticks."""
        return self._memory.lines, _ticks(self.pid)

    @property
    def said(self) -> str:
        """What of its output explains its state best."""
        return self._memory.text

    def failure(self, words: str = "") -> EngineFailed:
        """Why it has ended; `words` is when."""
        assert self._process is not None and self._reader is not None
        code = self._process.wait()
        self._reader.join(_LAST_LINES_SECONDS)
        return why_ended(self._memory, code, oom=oom_kills() > self._kills, words=words)

    def terminate(self) -> None:
        """SIGTERM to it and what it has started."""
        self._signal(signal.SIGTERM)

    def wait(self, deadline: float) -> bool:
        """Wait for its end until a `time.monotonic()` moment; whether it came."""
        assert self._process is not None
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, deadline - time.monotonic()))
        return not self.alive

    def close(self) -> None:
        """End it at once and all of its group."""
        if self._process is None:
            return
        self._signal(signal.SIGKILL)
        self._process.wait()
        if self._reader is not None:
            self._reader.join(_LAST_LINES_SECONDS)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def _read(self, output: IO[bytes]) -> None:
        """Pass its lines on to the rank's output, and remember what explains an end."""
        with output:
            while piece := output.readline(_LONGEST_LINE):
                text = piece.decode(errors="replace")
                with suppress(OSError, ValueError):
                    sys.stdout.write(text if text.endswith("\n") else text + "\n")
                    sys.stdout.flush()
                # Progress bars rewrite their line: the last state of it counts.
                line = text.rstrip("\r\n").rpartition("\r")[2]
                self._memory.add(line)
                if (sign := self._adapter.sign_of(line)) is not None:
                    self._progress.sign(sign)


def _check_module(command: CommandLine, environment: Mapping[str, str]) -> None:
    """Refuse an interpreter that is not there or has not the engine, with the way to get it."""
    python = command.words[0]
    look = f"import importlib.util as u, sys; sys.exit(u.find_spec({command.module!r}) is None)"
    try:
        found = subprocess.run(
            [python, "-c", look], env=dict(environment), timeout=_FIND_SECONDS, check=False,
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineFailed(
            "EngineMissing", f"environment.python: {error}; on this machine: {command.remedy}"
        ) from error
    if found.returncode != 0:
        raise EngineFailed(
            "EngineMissing",
            f"{python} has no {command.module}: {command.remedy}",
            found.stderr[-4000:],
        )


def _ticks(group: int) -> int:
    """Processor time, user and system, of a process group's living processes; 0 without /proc."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            # After the name, which may hold anything, come state, ppid, pgrp; utime is the 12th.
            fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
            if int(fields[2]) == group:
                total += int(fields[11]) + int(fields[12])
    return total
