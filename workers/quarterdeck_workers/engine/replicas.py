"""The two ways in which an engine runs: in the rank's own process, or as a program below it."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from quarterdeck_workers.engine.adapters import Adapter, EngineOrder
from quarterdeck_workers.engine.child_engine import ChildEngine
from quarterdeck_workers.engine.engine_failures import EngineFailed
from quarterdeck_workers.engine.metric_names import EngineLoad
from quarterdeck_workers.engine.model_files import read_ahead
from quarterdeck_workers.engine.probing import EngineClient
from quarterdeck_workers.engine.shared_memory import share_of
from quarterdeck_workers.engine.start_progress import StartProgress

START_TIMEOUT = 1800.0
_POLL_EVERY = 0.25
_SIGN_EVERY = 5.0
_PORTS_TRIED = 3
_LINGER = 2.0
"""Seconds after the order to stop until every gateway has heard that nothing new shall come."""


class Replica(Protocol):
    """An engine from its start to its end. Used by one thread."""

    url: str

    def open(self) -> None:
        """Begin to listen, where that comes before the weights."""

    def start(self, folder: Path, stopped: Callable[[], bool], alive: Callable[[], None]) -> bool:
        """Load the model of a folder and wait until requests are taken; False where `stopped`
        said so before. `alive` is called while something moves. Raises EngineFailed, and what
        loading raises."""

    def check(self) -> None:
        """Raises EngineFailed once the engine has ended."""

    def in_flight(self, load: EngineLoad) -> int:
        """Requests that it has taken and not answered, as far as is known."""

    def drain(self, deadline: float, client: EngineClient) -> int:
        """Let it end what it has until a `time.monotonic()` moment; requests left then."""

    def close(self) -> None:
        """End it at once."""


class BuiltinReplica:
    """The builtin engine, here: torch is imported already where the rank was forked."""

    def __init__(
        self, name: str, spec: Mapping[str, Any], address: str, progress: StartProgress
    ) -> None:
        from quarterdeck_workers.engine.builtin_server import EngineArguments, EngineServer

        arguments = EngineArguments.parse(dict(spec.get("engine_args") or {}))
        self._server = EngineServer(name, arguments, address, share=share_of(spec))
        self._progress = progress
        self.url = self._server.url

    def open(self) -> None:
        """See `Replica`."""
        self._server.start()

    def start(self, folder: Path, stopped: Callable[[], bool], alive: Callable[[], None]) -> bool:
        """See `Replica`."""
        self._progress.enter("weights")
        read_ahead(folder, lambda done, total: self._progress.bytes("weights", done, total))
        self._server.load(folder)
        return not stopped()

    def check(self) -> None:
        """See `Replica`."""
        if not self._server.alive:
            raise EngineFailed(
                "Crashed", "the engine's loop has died or stands still: see the log above"
            )

    def in_flight(self, load: EngineLoad) -> int:
        """See `Replica`."""
        return self._server.in_flight

    def drain(self, deadline: float, client: EngineClient) -> int:
        """See `Replica`."""
        self._server.drain(deadline)
        return self._server.in_flight

    def close(self) -> None:
        """See `Replica`."""
        self._server.close()


class ProgramReplica:
    """An engine with a command line."""

    def __init__(
        self, name: str, spec: Mapping[str, Any], address: str, progress: StartProgress,
        adapter: Adapter,
    ) -> None:  # fmt: skip
        self._name, self._spec, self._address = name, spec, address
        self._progress, self._adapter = progress, adapter
        self._child: ChildEngine | None = None
        self.url = ""

    def open(self) -> None:
        """See `Replica`: a program listens when it likes."""

    def start(self, folder: Path, stopped: Callable[[], bool], alive: Callable[[], None]) -> bool:
        """See `Replica`."""
        over = threading.Event()
        ahead = threading.Thread(
            target=read_ahead, args=(folder, self._tell_read, over), name="read-ahead", daemon=True
        )
        ahead.start()
        try:
            for left in reversed(range(_PORTS_TRIED)):
                try:
                    return self._start_once(folder, stopped, alive)
                except EngineFailed as error:
                    # Between the choice of a free port and its use another program may take it.
                    if error.reason != "PortInUse" or not left:
                        raise
                    self.close()
        finally:
            over.set()
        raise AssertionError("unreachable")

    def _tell_read(self, done: int, total: int) -> None:
        # Once the engine itself has said something, that counts.
        if self._progress.phase == "environment":
            self._progress.bytes("environment", done, total)

    def _start_once(
        self, folder: Path, stopped: Callable[[], bool], alive: Callable[[], None]
    ) -> bool:
        assert self._adapter.command_line is not None
        port = _free_port(self._address)
        self.url = f"http://{self._address}:{port}"
        command = self._adapter.command_line(
            EngineOrder(self._name, str(folder), self._address, port, self._spec, sys.executable)
        )
        self._progress.enter("environment")
        self._child = child = ChildEngine(command, self._adapter, self._progress)
        child.start({str(n): str(v) for n, v in (self._spec.get("env") or {}).items()})
        ready_path = str(self._spec.get("ready_path") or self._adapter.ready_path)
        client = EngineClient(self.url, self._name, "completion", ready_path, ())
        seconds = float(self._spec.get("start_timeout") or START_TIMEOUT)
        deadline = time.monotonic() + seconds
        looked, activity = time.monotonic(), child.activity()
        while not client.ready():
            if not child.alive:
                raise child.failure("before it was ready")
            if stopped():
                return False
            now = time.monotonic()
            if now > deadline:
                raise EngineFailed(
                    "StartTimeout",
                    f"the engine was not ready after {seconds:g} s: {ready_path} did not answer "
                    "200. A longer start_timeout lets it, another ready_path asks elsewhere",
                    child.said,
                )
            if now - looked >= _SIGN_EVERY:
                looked, before, activity = now, activity, child.activity()
                if activity != before:
                    alive()
            time.sleep(_POLL_EVERY)
        if not child.alive:  # somebody else answers at its port
            raise child.failure("before it was ready")
        return True

    def check(self) -> None:
        """See `Replica`."""
        assert self._child is not None
        if not self._child.alive:
            raise self._child.failure("while it served")

    def in_flight(self, load: EngineLoad) -> int:
        """See `Replica`."""
        return load.in_flight or 0

    def drain(self, deadline: float, client: EngineClient) -> int:
        """See `Replica`."""
        assert self._child is not None
        heard = min(time.monotonic() + _LINGER, deadline)
        left = client.load().in_flight
        while self._child.alive and (now := time.monotonic()) < deadline:
            left = client.load().in_flight
            if now >= heard and not left:
                break
            time.sleep(_POLL_EVERY)
        self._child.terminate()
        ended = self._child.wait(deadline)
        return 0 if ended else left or 0

    def close(self) -> None:
        """See `Replica`."""
        if self._child is not None:
            self._child.close()


def _free_port(address: str) -> int:
    with socket.create_server((address, 0)) as listener:
        return int(listener.getsockname()[1])
