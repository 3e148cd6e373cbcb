"""One rank's process as its actor sees it: started, heard, signalled, ended.

Reader threads take in what comes over the sockets and the output pipe; `take` hands it over.
Nothing here knows Ray.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quarterdeck.specs.beats import Blame, CheckpointManifest
from quarterdeck.specs.log_policies import OrderedPolicy
from quarterdeck.specs.protocol import RunOrder
from quarterdeck_workers.rank.entry import STACKS_FILE
from quarterdeck_workers.rank.folders import keep_folder
from quarterdeck_workers.rank.kernel import kernel_view, resident_bytes, unread_bytes
from quarterdeck_workers.rank.launch import Launch, send_launch
from quarterdeck_workers.rank.log_watch import LogWatch, Match
from quarterdeck_workers.rank.logs import LogBuffer, LogLimits
from quarterdeck_workers.rank.masking import Masker
from quarterdeck_workers.rank.parent import READY
from quarterdeck_workers.rank.taps import Taps

_MOST_MESSAGES = 20_000
_LINES_PER_TAKE = 2_000
_CONNECT_SECONDS = 120.0
_ACCEPT_SECONDS = 0.2
_LAST_LINES_SECONDS = 1.0
"""How long an exit waits for what was written before it, which tells who is to blame."""
_STACKS_PAUSE = 0.2
"""Between two looks at stacks that are being written, seconds."""
_LAST_WORDS_SECONDS = 60.0
"""How long what a dead process has said may take to be read, and its last folder to be kept."""
_URGENT = frozenset({"failure", "checkpoint", "output", "endpoint", "phase", "exit", "gone"})
_MASKED = frozenset({"phase", "step", "result", "event", "failure"})
"""Messages that hold people's text; the others hold addresses and digests that must stay."""
REPORT_PATH = "report.sock"


class LaunchFailed(Exception):
    """The node could not start the rank's process; the message says what was tried."""


@dataclass
class RankNews:
    """What one rank's process did since the last look."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    """As in rank/context.py, and the watcher's `pid`, `exit` and `gone`; all have `at`."""
    lines: list[tuple[float, str]] = field(default_factory=list)
    setup_lines: list[tuple[float, str]] = field(default_factory=list)
    """Output of the node's `setup`, with its first rank."""
    dropped: int = 0
    memory: int = 0
    tail: str = ""
    """Last output lines, once the process has ended."""


class RankProcess:
    """Start with `start`, then `take` until a `gone` message came. `on_news` is called from other
    threads whenever something urgent arrived."""

    def __init__(
        self,
        launch: Launch,
        on_news: Callable[[], None] = lambda: None,
        masker: Masker | None = None,
    ) -> None:
        self.launch = launch
        self._masker = masker or Masker([])
        self.pid: int | None = None
        self.gone = threading.Event()
        self._on_news = on_news
        self._messages: deque[dict[str, Any]] = deque()
        self._dropped = 0
        self._logs = LogBuffer(LogLimits.of_gang(launch.world_size))
        policies = [
            OrderedPolicy.model_validate(each) for each in launch.order.get("log_policies") or ()
        ]
        self._watch, self._failures = LogWatch(policies), LogWatch(policies)
        self._lock = threading.Lock()
        self._send_lock = threading.Lock()
        self._reading = threading.Lock()
        """Held from the reading of output until it stands in the log."""
        self._alive = -1
        self._reports: list[socket.socket] = []
        self._reporters: set[int] = set()
        self.taps = Taps(launch.private)
        self._first_step = True
        self._readers: list[threading.Thread] = []
        self._ending = threading.Event()

    # --- starting --------------------------------------------------------------------------

    def start(self, parent_socket: Path | None) -> None:
        """Start through the preloaded parent, or with None a fresh interpreter.

        Raises LaunchFailed when the parent does not answer within two minutes.
        """
        listener = self._listen() if self.launch.command is not None else None
        alive_read, self._alive = os.pipe()
        output_read, output_write = os.pipe()
        status, status_child = socket.socketpair()
        report, report_child = socket.socketpair()
        theirs = [alive_read, status_child.fileno(), output_write, report_child.fileno()]
        try:
            connection = self._connect(parent_socket)
            with connection:
                connection.settimeout(_CONNECT_SECONDS)
                send_launch(connection, self.launch, theirs)
                if connection.recv(1) != READY:
                    raise LaunchFailed("the node's preloaded parent died while starting a rank")
        except (OSError, LaunchFailed) as error:
            self.kill()
            for each in (status, report, *([listener] if listener else [])):
                each.close()
            os.close(output_read)
            raise LaunchFailed(f"the rank's process did not start: {error}") from error
        finally:
            os.close(alive_read)
            os.close(output_write)
            status_child.close()
            report_child.close()
        self._reports.append(report)
        if listener is not None:
            self._readers.append(self._thread(self._accept, listener))
        self._readers.append(self._thread(self._read_reports, report))
        unread = os.dup(output_read)
        self._readers.append(self._thread(self._read_output, output_read))
        self._thread(self._read_status, status, unread)

    def _connect(self, parent_socket: Path | None) -> socket.socket:
        if parent_socket is None:
            ours, theirs = socket.socketpair()
            module = "quarterdeck_workers.rank.parent"
            starter = subprocess.Popen(
                [sys.executable, "-m", module, "--connection", str(theirs.fileno())],
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
            theirs.close()
            self._thread(starter.wait)
            return ours
        deadline = time.monotonic() + _CONNECT_SECONDS
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.connect(str(parent_socket))
                return connection
            except OSError:
                connection.close()
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)  # it may still be importing

    def _listen(self) -> socket.socket:
        """Users' programs report over a socket with a path: it survives any launcher."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(Path(self.launch.private, REPORT_PATH)))
        listener.listen(64)
        return listener

    def _thread(self, target: Callable[..., object], *arguments: Any) -> threading.Thread:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        thread.start()
        return thread

    # --- reading ---------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        listener.settimeout(_ACCEPT_SECONDS)
        with listener:
            while True:
                ending = self._ending.is_set()  # seen before the last look at the queue
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    if ending:
                        return
                    continue
                connection.settimeout(None)
                with self._lock:
                    self._reports.append(connection)
                self._readers.append(self._thread(self._read_reports, connection))

    def _read_status(self, status: socket.socket, unread: int) -> None:
        clean = False
        with status, status.makefile("r", encoding="utf-8") as lines:
            for line in lines:
                message = json.loads(line)
                if message["type"] == "pid":
                    self.pid = message["pid"]
                elif message["type"] == "exit":
                    self._let_be_read(unread)
                elif message["type"] == "gone":
                    clean = bool(message["clean"])
                    continue
                self._add({"at": time.time(), **message})
        os.close(unread)
        self._ending.set()
        self.kill()
        deadline = time.monotonic() + _LAST_WORDS_SECONDS
        for reader in self._readers:  # grows while the first of them, the acceptor, ends
            reader.join(max(0.0, deadline - time.monotonic()))
        self.gone.set()
        self._add({"type": "gone", "at": time.time(), "clean": clean})

    def _let_be_read(self, output: int) -> None:
        """Return when the log has all that waits in the pipe `output`."""
        deadline = time.monotonic() + _LAST_LINES_SECONDS
        while time.monotonic() < deadline:
            with self._reading:
                if not unread_bytes(output):
                    return
            time.sleep(0.005)

    def _read_reports(self, connection: socket.socket) -> None:
        with (
            suppress(OSError, ValueError, AttributeError),  # a broken or rude program
            connection.makefile("r", encoding="utf-8") as lines,
        ):
            for line in lines:
                message = json.loads(line)
                if message.get("type") == "hello":
                    self._reporters.add(int(message["pid"]))
                elif message.get("type") == "checkpoint_folder":
                    self._keep(message)
                elif "type" in message:
                    if message["type"] == "failure":  # its traceback may be in no log
                        said = f"{message.get('traceback', '')}\n{message.get('message', '')}"
                        matches = self._failures.read(self._masker.text(said), time.time())
                        self._tell_matches(matches)
                    self._add({"at": time.time(), **message})
        with self._lock:
            self._reports.remove(connection)
        connection.close()

    def _keep(self, message: dict[str, Any]) -> None:
        """Copy a reported folder. A failing copy costs that checkpoint, not the run."""
        if self.launch.rank != 0:
            return
        if (self.launch.order["spec"].get("checkpoints") or {}).get("path"):
            self.note("checkpoint.failed", "report(checkpoint=…): checkpoints.path is kept instead")
            return
        step, folder = int(message["step"]), Path(str(message["folder"]))
        try:
            manifest = keep_folder(RunOrder.model_validate(self.launch.order), step, folder)
        except Exception as error:
            why = f"checkpoint of step {step} was not kept: {error}"
            self._say("event", event="checkpoint.failed", message=why, data={"step": step})
        else:
            self.register(manifest)

    def register(self, manifest: CheckpointManifest) -> None:
        """Report a checkpoint that was made beside the process."""
        self._say("checkpoint", manifest=manifest.model_dump(mode="json"))

    def note(self, event: str, message: str) -> None:
        """Report an event beside the process."""
        self._say("event", event=event, message=message, data={})

    def _say(self, kind: str, **content: Any) -> None:
        self._add({"type": kind, "at": time.time(), **content})

    def _read_output(self, descriptor: int) -> None:
        masked = self._masker.stream()
        with os.fdopen(descriptor, "rb", buffering=0) as stream:
            poller = select.poll()
            poller.register(stream)
            while poller.poll():
                with self._reading:
                    if not (data := stream.read(65536)):
                        break
                    said, now = masked.feed(data), time.time()
                    with self._lock:
                        self._logs.feed(said, now)
                self._tell_matches(self._watch.feed(said, now))
                if said:
                    self.taps.pass_on(said)
        said, now = masked.close(), time.time()
        with self._lock:
            self._logs.feed(said, now)
            self._logs.close(now)
        self.taps.pass_on(said)
        self.taps.close()
        self._tell_matches([*self._watch.feed(said, now), *self._watch.close(now)])

    def _tell_matches(self, matches: list[Match]) -> None:
        for match in matches:
            message = {"line": match.line, **match.policy.model_dump(exclude={"name", "pattern"})}
            self._add({"type": "log_match", "at": match.at, "policy": match.policy.name, **message})

    def _add(self, message: dict[str, Any]) -> None:
        if message["type"] in _MASKED:
            message = {**self._masker.value(message), "type": message["type"]}
        with self._lock:
            self._messages.append(message)
            urgent = message["type"] in _URGENT
            if message["type"] == "step" and self._first_step:
                self._first_step, urgent = False, True
            if len(self._messages) > _MOST_MESSAGES:
                self._drop_one()
        if urgent:
            self._on_news()

    def _drop_one(self) -> None:
        for index, message in enumerate(self._messages):
            if message["type"] in ("step", "heartbeat", "event"):
                del self._messages[index]
                self._dropped += message["type"] != "heartbeat"
                return

    # --- handing over, stopping ------------------------------------------------------------

    def take(self) -> RankNews:
        """Everything new since the last call."""
        with self._lock:
            news = RankNews(messages=list(self._messages))
            self._messages.clear()
            kinds = {message["type"] for message in news.messages}
            limit = None if "gone" in kinds else _LINES_PER_TAKE
            news.lines = self._logs.take(limit, time.time())
            news.dropped = self._dropped
            self._dropped = 0
            if kinds & {"exit", "gone"}:
                news.tail = self._logs.tail
        news.memory = resident_bytes(self.pid) if self.pid and not self.gone.is_set() else 0
        return news

    def stop(self, *, checkpoint: bool, deadline_seconds: float, reason: str) -> None:
        """Ask the process to stop: a message, for a user's program SIGTERM to its group too."""
        message = {
            "type": "stop", "checkpoint": checkpoint, "deadline_seconds": deadline_seconds,
            "reason": reason,
        }  # fmt: skip
        line = json.dumps(message).encode() + b"\n"
        with self._lock:
            connections = list(self._reports)
        for connection in connections:
            with self._send_lock, suppress(OSError):
                connection.sendall(line)
        if self.launch.command is not None and self.pid is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGTERM)

    def fail(self, message: str, blame: Blame) -> None:
        """Say why the process will be ended, as if it had said so itself."""
        self._say("failure", message=message, blame=blame, traceback="")

    def kill(self) -> None:
        """End the process and all below it; `gone` follows."""
        with self._lock:
            alive, self._alive = self._alive, -1
        if alive >= 0:
            os.close(alive)

    def stacks(self, wait: float = 5.0) -> str:
        """The stacks of the process's threads, if they come within `wait` seconds; of programs
        that never reported, what the kernel tells: names and states of the processes."""
        if self.pid is None or self.gone.is_set():
            return ""
        pids = [self.pid] if self.launch.command is None else sorted(self._reporters)
        for pid in pids:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGUSR1)
        if pids and (text := _written(Path(self.launch.private, STACKS_FILE), wait)):
            return self._masker.text(text[-64 * 1024 :])
        return self._masker.text(kernel_view(self.pid))


def _written(file: Path, wait: float) -> str:
    """What stands in a file once it grows no more; empty if nothing came within `wait` seconds."""
    deadline = time.monotonic() + wait
    before = ""
    while time.monotonic() < deadline:
        time.sleep(_STACKS_PAUSE)
        with suppress(OSError):
            now = file.read_text(encoding="utf-8", errors="replace")
            if now and now == before:
                break
            before = now
    return before
