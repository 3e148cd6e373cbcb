"""A gang of ranks on this machine without the platform: for tests and measurements.

Ranks are forked from a server that has torch and deepspeed imported already, and speak over real
sockets what they would tell their host actors. What the supervisor does beyond that (placement,
watchdog, beats) is not here.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

from quarterdeck.specs.protocol import RunOrder
from quarterdeck_workers.rank.context import RankContext
from quarterdeck_workers.rank.errors import blame_of

PRETRAIN = "quarterdeck_workers.training.pretrain:main"


@dataclass
class Gang:
    """What the ranks said, and how they ended. Negative exit codes are signals."""

    messages: list[list[dict[str, Any]]]
    exit_codes: list[int | None] = field(default_factory=list)

    def of(self, kind: str, rank: int = 0) -> list[dict[str, Any]]:
        """One rank's messages of a kind, in order."""
        return [message for message in self.messages[rank] if message["type"] == kind]

    def metric(self, name: str) -> dict[int, float]:
        """A metric by step, as rank 0 told it."""
        return {m["step"]: m["metrics"][name] for m in self.of("step") if name in m["metrics"]}

    @property
    def failures(self) -> list[str]:
        """Messages of failures, in the order of ranks."""
        return [m["message"] for rank in range(len(self.messages))
                for m in self.of("failure", rank)]  # fmt: skip


class Controls:
    """Lets an observer act on a running gang."""

    def __init__(self) -> None:
        self.processes: list[ForkServerProcess] = []
        self.sockets: dict[int, socket.socket] = {}

    def stop(self, *ranks: int, checkpoint: bool = True) -> None:
        """Ask ranks (none given: all) to stop."""
        line = json.dumps({"type": "stop", "checkpoint": checkpoint, "deadline_seconds": 60}) + "\n"
        for rank in ranks or tuple(self.sockets):
            self.sockets[rank].sendall(line.encode())

    def kill(self, rank: int) -> None:
        """SIGKILL one rank."""
        pid = self.processes[rank].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)


Observer = Callable[[int, dict[str, Any], Controls], None]


def run_gang(
    order: RunOrder, ranks: int, workdir: Path, *,
    entry: str = PRETRAIN, observer: Observer | None = None, timeout: float = 300.0,
) -> Gang:  # fmt: skip
    """Run `entry` on `ranks` ranks to the end. `observer` sees (rank, message, controls).

    Once a rank has failed the others are killed, as a supervisor would. Raises TimeoutError.
    """
    context = _server()
    controls = Controls()
    gang = Gang([[] for _ in range(ranks)])
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        path = f"{folder}/reports"
        listener.bind(path)
        listener.listen(ranks)
        port = _free_port()
        for rank in range(ranks):
            process = context.Process(
                target=_rank_main,
                args=(order.model_dump_json(), rank, ranks, port, str(workdir), path, entry),
            )
            process.start()
            controls.processes.append(process)
        threads = [
            threading.Thread(target=_listen, args=(listener, gang, controls, observer), daemon=True)
            for _ in range(ranks)
        ]
        for thread in threads:
            thread.start()
        try:
            _wait(controls.processes, timeout)
        finally:
            for process in controls.processes:
                process.kill()
                process.join()
            listener.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join(10)
    gang.exit_codes = [process.exitcode for process in controls.processes]
    return gang


def _server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["quarterdeck_workers.training.pretrain"])
    return context


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait(processes: list[ForkServerProcess], timeout: float) -> None:
    """Until all have ended, or one has failed and the others had a moment to say why."""
    deadline = time.monotonic() + timeout
    failed_at: float | None = None
    while any(process.exitcode is None for process in processes):
        now = time.monotonic()
        if failed_at is None and any(process.exitcode for process in processes):
            failed_at = now
        if failed_at is not None and now > failed_at + 2.0:
            return
        if now > deadline:
            raise TimeoutError(f"the gang did not end within {timeout:.0f} s")
        time.sleep(0.02)


def _listen(
    listener: socket.socket, gang: Gang, controls: Controls, observer: Observer | None
) -> None:
    try:
        connection, _ = listener.accept()
    except OSError:  # a rank died before it connected
        return
    with connection, connection.makefile("r", encoding="utf-8") as lines:
        rank = int(next(lines))
        controls.sockets[rank] = connection
        for line in lines:
            message = json.loads(line)
            gang.messages[rank].append(message)
            if observer is not None:
                observer(rank, message, controls)


def _rank_main(
    order: str, rank: int, ranks: int, port: int, workdir: str, path: str, entry: str
) -> None:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    connection.sendall(f"{rank}\n".encode())
    context = RankContext(
        order=RunOrder.model_validate_json(order), rank=rank, world_size=ranks, local_rank=rank,
        node_rank=0, master_address="127.0.0.1", master_port=port, workdir=Path(workdir),
        _socket=connection,
    )  # fmt: skip
    context.start()
    module, _, name = entry.partition(":")
    try:
        getattr(importlib.import_module(module), name)(context)
    except Exception as error:
        context.failure(str(error), traceback.format_exc(), blame_of(error))
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
