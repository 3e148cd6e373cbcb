"""Starting a replica as a supervisor's rank would, and listening to what it reports."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from quarterdeck.specs.protocol import RankPlacement, ResolvedAsset, RunOrder

START_SECONDS = 120


class Replica:
    """One `serve.main` in a process of its own."""

    def __init__(
        self,
        run_id: str,
        uri: str,
        workdir: Path,
        *,
        name: str = "chat",
        engine_args: dict[str, Any] | None = None,
        options: dict[str, Any] | None = None,
        spec: dict[str, Any] | None = None,
        probing: tuple[float, float] | None = None,
        variables: dict[str, str] | None = None,
    ) -> None:
        self.run_id = run_id
        self.messages: list[dict[str, Any]] = []
        self._news = threading.Condition()
        order = RunOrder(
            run_id=run_id,
            epoch=1,
            owner_type="service",
            owner_id="svc-test",
            owner_name=name,
            kind="service",
            spec={"engine_args": engine_args or {}, **(spec or {})},
            cluster="test",
            placements=[RankPlacement(rank=0, node_id="node")],
            inputs={
                "model": [ResolvedAsset(kind="model", name="tiny", version=1, digest="-", uri=uri)]
            },
            artifacts_uri="file:///nowhere",
            artifacts_options=options or {},
            api_url="",
            run_key="",
        )
        mine, theirs = socket.socketpair()
        self._socket = mine
        with theirs:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    str(Path(__file__).with_name("replica.py")),
                    str(theirs.fileno()),
                    order.model_dump_json(),
                    str(workdir),
                    *(str(seconds) for seconds in probing or ()),
                ],
                pass_fds=[theirs.fileno()],
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", **(variables or {})},
            )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        with self._socket.makefile("r") as lines:
            for line in lines:
                with self._news:
                    self.messages.append(json.loads(line))
                    self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def of(self, kind: str) -> list[dict[str, Any]]:
        with self._news:
            return [message for message in self.messages if message["type"] == kind]

    def wait_for(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        """Until `condition` holds; it is looked at whenever something was said."""
        with self._news:
            assert self._news.wait_for(condition, timeout=seconds), self.messages

    def endpoint(self, seconds: float = START_SECONDS) -> dict[str, Any]:
        """The first endpoint that it reports."""
        with self._news:
            self._news.wait_for(
                lambda: (
                    any(m["type"] == "endpoint" for m in self.messages)
                    or self.process.poll() is not None
                ),
                timeout=seconds,
            )
        found = self.of("endpoint")
        if not found:
            self.process.kill()
            _, errors = self.process.communicate()
            raise AssertionError(f"no endpoint: {self.messages}\n{errors}")
        return found[0]

    def ask_to_stop(self, seconds: float) -> None:
        line = json.dumps({"type": "stop", "deadline_seconds": seconds, "reason": "test"})
        self._socket.sendall(line.encode() + b"\n")

    def close(self) -> None:
        if self.process.poll() is None:
            # A host's watcher ends what is below a rank; here this does.
            below = psutil.Process(self.process.pid).children(recursive=True)
            self.process.kill()
            for process in below:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        self.process.communicate()
        self._listener.join(timeout=10)
        self._socket.close()
