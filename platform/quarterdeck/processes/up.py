"""`quarterdeck up`: the whole platform on one machine, as children of this process."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from quarterdeck.client import Client, QuarterdeckError
from quarterdeck.client.config import read_key
from quarterdeck.processes.children import (
    MOST_FAILURES,
    MOST_FAILURES_AT_START,
    Child,
    ChildFailed,
    tail,
    watch_all,
)
from quarterdeck.processes.down import end_all
from quarterdeck.processes.failures import ProcessFailed, require_workers
from quarterdeck.processes.home import Home, prepare, write_private
from quarterdeck.processes.ports import PortBusy, require_free
from quarterdeck.processes.records import (
    MARK,
    Record,
    alive,
    identify,
    read_record,
    write_record,
)
from quarterdeck.processes.suspension import resume_all, suspend_all

CLUSTER = "local"
HOST = "127.0.0.1"
READY_SECONDS = 180.0
SUSPEND_SECONDS = 90.0
POLL = 0.25
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Tell = Callable[[str], None]


class UpFailed(ProcessFailed):
    """The platform did not come up; the message says what to look at."""


@dataclass(frozen=True)
class Options:
    """What `up` was asked for."""

    slots: int = 10
    port: int = 8080
    gateway_port: int = 8081
    with_agent: bool = True
    node_ip: str = "127.0.0.2"

    @property
    def api_url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def gateway_url(self) -> str:
        return f"http://{HOST}:{self.gateway_port}"


class Platform:
    """The running platform of one home: starts or adopts it, watches it, stops it."""

    def __init__(self, home: Home, options: Options, tell: Tell) -> None:
        self.home = home
        self.options = options
        self.tell = tell
        self.children: list[Child] = []
        self.stop_signals = 0

    # --- starting --------------------------------------------------------------------------

    def start(self) -> None:
        """Start what is not running, adopt what is, and wait until all of it is ready.

        Raises UpFailed; what was started by then has been stopped.
        """
        if self.options.with_agent:
            require_workers()
        prepare(self.home)
        record = read_record(self.home)
        write_private(self.home.url_file, self.options.api_url + "\n")
        for child in self._children():
            left = record.named(child.name) if record else None
            if left is not None and alive(left):
                child.adopt(left, time.monotonic())
                self.tell(f"{child.name} still runs (pid {left.pid}): adopted")
            else:
                self._require_port(child.name)
                child.start(time.monotonic())
            self.children.append(child)
            self._record()
        try:
            self.wait_until_ready()
        except BaseException:
            end_all(self.home, self.tell)
            raise
        resume_all(self.client(), self.home, self.tell)

    def client(self, retry_seconds: float = 5.0) -> Client:
        """A client with the admin key of this home."""
        key = read_key(self.home.admin_key)
        return Client(self.options.api_url, key, retry_seconds=retry_seconds)

    def _children(self) -> Sequence[Child]:
        environment = {
            **os.environ,
            "QUARTERDECK_HOME": str(self.home.folder),
            MARK: self.home.instance.read_text(encoding="ascii").strip(),
            "PYTHONUNBUFFERED": "1",
        }
        for name in ("QUARTERDECK_KEY", "QUARTERDECK_URL"):
            environment.pop(name, None)
        options = self.options
        commands = {
            "api": ["--host", HOST, "--port", str(options.port)],
            "controller": [],
            "gateway": [
                "--host", HOST, "--port", str(options.gateway_port), "--url", options.api_url,
            ],
        }  # fmt: skip
        if options.with_agent:
            commands["agent"] = [
                "--url", options.api_url, "--cluster", CLUSTER, "--slots", str(options.slots),
                "--node-ip", options.node_ip,
            ]  # fmt: skip
        program = [sys.executable, "-m", "quarterdeck.processes.main"]
        return [
            Child(name, [*program, name, *arguments], environment, self.home.logs / f"{name}.log")
            for name, arguments in commands.items()
        ]

    def _require_port(self, name: str) -> None:
        ports = {"api": self.options.port, "gateway": self.options.gateway_port}
        if name in ports:
            try:
                require_free(HOST, ports[name])
            except PortBusy as error:
                flag = "--port" if name == "api" else "--gateway-port"
                raise UpFailed(f"{error}: stop it or choose another {flag}") from error

    def _record(self) -> None:
        entries = [child.recorded for child in self.children if child.recorded is not None]
        write_record(
            self.home,
            Record(
                api_url=self.options.api_url,
                gateway_url=self.options.gateway_url,
                slots=self.options.slots,
                with_agent=self.options.with_agent,
                processes=(identify("up", os.getpid()), *entries),
            ),
        )

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        said = 0.0
        with self.client(retry_seconds=0) as client:
            while missing := self._missing(client):
                now = time.monotonic()
                if self.stop_signals:
                    raise KeyboardInterrupt
                if now > deadline:
                    raise UpFailed(f"not ready after {READY_SECONDS:.0f} s: {missing}")
                if now - said > 2:
                    self.tell(f"waiting for {missing}")
                    said = now
                self._watch(MOST_FAILURES_AT_START)
                time.sleep(POLL)

    def _missing(self, client: Client) -> str:
        if not client.ready():
            return "the api"
        if not gateway_answers(self.options.gateway_url):
            return "the gateway"
        if self.options.with_agent and not self._agent_beats(client):
            return "the agent and Ray"
        return ""

    def _agent_beats(self, client: Client) -> bool:
        """Whether this agent was heard, not the one of an earlier start."""
        record = read_record(self.home)
        agent = record.named("agent") if record else None
        with suppress(QuarterdeckError):
            for cluster in client.clusters.list():
                if cluster.name == CLUSTER and cluster.slots and cluster.last_beat_at and agent:
                    return cluster.last_beat_at.timestamp() > agent.created
        return False

    # --- running ---------------------------------------------------------------------------

    def ready_line(self) -> str:
        """What a person needs next."""
        with self.client() as client:
            nodes = [node for node in client.nodes.list() if node.phase == "alive"]
        slots = sum(node.slots for node in nodes)
        machines = f"{len(nodes)} node{'' if len(nodes) == 1 else 's'}, {slots} slots"
        return f"ready {self.options.api_url} · {machines} · next: quarterdeck apply -f …"

    def run(self) -> None:
        """Watch the children until a signal comes. Raises ChildFailed after a clean stop."""
        while not self.stop_signals:
            try:
                self._watch()
            except UpFailed as error:
                self.tell(str(error))
                self.stop(suspend=False)
                raise
            time.sleep(POLL)
        self.stop(suspend=True)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch the children on a thread while the caller works; a signal raises
        KeyboardInterrupt in the caller."""
        done = threading.Event()

        def watch() -> None:
            while not done.wait(POLL):
                try:
                    self._watch()
                except UpFailed as error:
                    self.tell(str(error))
                    return

        def interrupt(number: int, frame: object) -> None:
            self.on_signal(number, frame)
            raise KeyboardInterrupt

        before = {number: signal.signal(number, interrupt) for number in SIGNALS}
        watcher = threading.Thread(target=watch, name="watch-children", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _watch(self, most_failures: int = MOST_FAILURES) -> None:
        try:
            if watch_all(self.children, time.monotonic(), self.tell, most_failures):
                self._record()
        except ChildFailed as error:
            raise UpFailed(str(error)) from error

    def stop(self, *, suspend: bool) -> None:
        """Suspend jobs with a checkpoint, then stop every process; none is left."""
        heard = self.stop_signals
        if suspend and self.options.with_agent:
            try:
                with self.client(retry_seconds=2) as client:
                    suspend_all(
                        client, self.home, SUSPEND_SECONDS, self.tell,
                        hurry=lambda: self.stop_signals > heard,
                    )  # fmt: skip
            except QuarterdeckError as error:
                self.tell(f"jobs could not be suspended: {error}")
        end_all(self.home, self.tell)
        for child in self.children:
            child.reap()

    def on_signal(self, number: int, frame: object) -> None:
        """SIGINT and SIGTERM: stop; a second one does not wait for checkpoints."""
        self.stop_signals += 1

    def listen(self) -> None:
        """Take over SIGINT, SIGTERM and SIGHUP."""
        for number in SIGNALS:
            signal.signal(number, self.on_signal)


def gateway_answers(url: str) -> bool:
    """Whether the gateway at `url` says that it lives."""
    import httpx

    try:
        return httpx.get(f"{url}/healthz", timeout=2, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def attached(home: Home, tell: Tell) -> Platform | None:
    """The platform of a home whose `up` still runs, None otherwise."""
    record = read_record(home)
    if record is None or alive(record.named("up")) is None:
        return None
    options = Options(
        slots=record.slots,
        port=int(record.api_url.rsplit(":", 1)[1]),
        gateway_port=int(record.gateway_url.rsplit(":", 1)[1]),
        with_agent=record.with_agent,
    )
    platform = Platform(home, options, tell)
    platform.wait_until_ready()
    return platform


def detach(home: Home, options: Options, tell: Tell) -> Platform:
    """Start `up` as a process of its own, and wait until it is ready. Raises UpFailed."""
    prepare(home)
    command = [
        sys.executable, "-m", "quarterdeck.processes.main", "up", "--foreground",
        "--slots", str(options.slots), "--port", str(options.port),
        "--gateway-port", str(options.gateway_port), "--node-ip", options.node_ip,
        *([] if options.with_agent else ["--no-agent"]),
    ]  # fmt: skip
    log = home.logs / "up.log"
    environment = {**os.environ, "QUARTERDECK_HOME": str(home.folder)}
    daemon = Child("up", command, environment, log)
    start = log.stat().st_size if log.exists() else 0
    daemon.start(time.monotonic())
    platform = Platform(home, options, tell)
    deadline = time.monotonic() + READY_SECONDS
    while not _says_ready(log, start):
        if daemon.process() is None:
            raise UpFailed(f"up ended at once:\n{tail(log)}")
        if time.monotonic() > deadline:
            raise UpFailed(f"not ready after {READY_SECONDS:.0f} s:\n{tail(log)}")
        time.sleep(POLL)
    return platform


def _says_ready(log: Path, start: int) -> bool:
    with log.open("rb") as stream:
        stream.seek(start)
        return any(line.startswith(b"ready http") for line in stream)


def platform_pids(home: Home) -> list[int]:
    """Pids of the recorded processes that live, for tests and `doctor`."""
    record = read_record(home)
    living: list[psutil.Process | None] = (
        [alive(entry) for entry in record.processes] if record else []
    )
    return [process.pid for process in living if process is not None]
