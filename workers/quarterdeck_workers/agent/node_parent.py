"""A small Ray actor on each node that keeps the node's preloaded parent running."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from quarterdeck_workers.rank.launch import scrubbed
from quarterdeck_workers.rank.parent import ENVIRONMENT
from quarterdeck_workers.supervisor.actor import NAMESPACE
from quarterdeck_workers.supervisor.berths import NODE_HOME, NODE_TEMP, PARENT_SOCKET

_RESTART_SECONDS = 2.0
_TERM_SECONDS = 3.0


class NodeParent:
    """Starts the parent's process and restarts it when it dies; it ends with this actor."""

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._socket = Path(os.environ[NODE_TEMP], PARENT_SOCKET)
        self._log = Path(os.environ[NODE_HOME], "logs", "parent.log")
        self._process = self._start()
        threading.Thread(target=self._watch, daemon=True).start()

    def pid(self) -> int:
        """Pid of the parent's process."""
        return self._process.pid

    def stop(self) -> None:
        """End the parent's process; ranks that it started live on."""
        self._stopped.set()
        self._process.terminate()
        self._process.wait(_TERM_SECONDS)

    def _start(self) -> subprocess.Popen[bytes]:
        self._log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            # Its standard input is a pipe of ours: the parent ends when we do.
            return subprocess.Popen(
                [sys.executable, "-m", "quarterdeck_workers.rank.parent", "--socket", self._socket],
                env={**scrubbed(os.environ), **ENVIRONMENT}, stdin=subprocess.PIPE, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def _watch(self) -> None:
        while True:
            self._process.wait()
            if self._stopped.is_set():
                return
            time.sleep(_RESTART_SECONDS)
            self._process = self._start()


NodeParentActor = ray.remote(NodeParent)


def parent_name(node_id: str) -> str:
    """The actor's name in Ray."""
    return f"parent-{node_id}"


def start_parent(node_id: str, *, replace: bool) -> None:
    """Make sure that the node has its parent; `replace` starts it anew (its code may be old)."""
    name = parent_name(node_id)
    try:
        old = ray.get_actor(name, NAMESPACE)
    except ValueError:
        old = None
    if old is not None:
        if not replace:
            return
        ray.get(old.stop.remote(), timeout=10.0)
        ray.kill(old)
    NodeParentActor.options(
        name=name,
        namespace=NAMESPACE,
        lifetime="detached",
        num_cpus=0,
        max_restarts=-1,
        get_if_exists=True,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
    ).remote()
