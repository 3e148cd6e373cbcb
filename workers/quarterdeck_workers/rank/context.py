"""What a rank's own process knows, and how it talks to its host actor.

The process and its actor share one stream socket; each message is one JSON line. Upwards:
`phase`, `step`, `checkpoint`, `output`, `result`, `event`, `endpoint`, `failure`, `heartbeat`.
Downwards: `stop` with the wish for a checkpoint and a deadline. The class here is the only one
that knows the wire form; trainers and engines call its methods.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quarterdeck.specs.beats import CheckpointManifest, OutputAsset
from quarterdeck.specs.protocol import RunOrder

REPORT_SOCKET = "QUARTERDECK_REPORT_FD"


@dataclass(frozen=True)
class StopRequest:
    """The control plane's wish to stop; `deadline` is a `time.monotonic()` moment."""

    checkpoint: bool
    deadline: float
    reason: str


@dataclass
class RankContext:
    """Everything a job's entry point gets: who it is, what to do, where to report.

    `order.run_key` and `order.api_url` are blank here: a rank never talks to the control plane.
    """

    order: RunOrder
    rank: int
    world_size: int
    local_rank: int
    node_rank: int
    master_address: str
    master_port: int
    workdir: Path
    """A private folder of this run on this node, gone when the run ends."""
    _socket: socket.socket | None = None
    _stop: StopRequest | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> None:
        """Listen for stop requests on a daemon thread (after any fork)."""
        if self._socket is not None:
            threading.Thread(target=self._listen, name="stop-listener", daemon=True).start()

    def _listen(self) -> None:
        assert self._socket is not None
        with self._socket.makefile("r", encoding="utf-8") as lines:
            for line in lines:
                message = json.loads(line)
                if message.get("type") == "stop":
                    self._stop = StopRequest(
                        checkpoint=bool(message.get("checkpoint")),
                        deadline=time.monotonic() + float(message.get("deadline_seconds", 30.0)),
                        reason=str(message.get("reason", "")),
                    )

    @property
    def stop_requested(self) -> StopRequest | None:
        """The newest stop request. Ranks hear of it at different moments: agree before acting."""
        return self._stop

    def _send(self, kind: str, **content: Any) -> None:
        if self._socket is None:
            return
        line = json.dumps({"type": kind, "at": time.time(), **content}, default=str) + "\n"
        with self._lock:
            self._socket.sendall(line.encode())

    def phase(self, message: str, *, running: bool = False) -> None:
        """Say what happens now; `running` once real work has begun."""
        self._send("phase", message=message, running=running)

    def heartbeat(self) -> None:
        """A sign of life without a step, for work that is long but not stuck."""
        self._send("heartbeat")

    def step(
        self,
        step: int,
        metrics: dict[str, float] | None = None,
        *,
        steps_total: int | None = None,
        seconds: float = 0.0,
        eta_seconds: float | None = None,
    ) -> None:
        """A step is done; `seconds` is the productive time it took. Metrics come from rank 0."""
        self._send(
            "step", step=step, metrics=metrics or {}, steps_total=steps_total, seconds=seconds,
            eta_seconds=eta_seconds,
        )  # fmt: skip

    def checkpoint(self, manifest: CheckpointManifest) -> None:
        """All files of a checkpoint are durable; it exists once the api has registered it."""
        self._send("checkpoint", manifest=manifest.model_dump(mode="json"))

    def output(self, asset: OutputAsset) -> None:
        """Publish a version of a model, dataset or tokenizer."""
        self._send("output", asset=asset.model_dump(mode="json"))

    def result(self, name: str, value: Any) -> None:
        """A named result of the job, e.g. `perplexity`."""
        self._send("result", name=name, value=value)

    def event(self, type_: str, message: str, **data: Any) -> None:
        """A fact worth keeping with the job's events."""
        self._send("event", event=type_, message=message, data=data)

    def endpoint(
        self, url: str, *, probed: bool, models: list[str], in_flight: int = 0, **state: Any
    ) -> None:
        """Where this engine answers; `probed` after a token was really generated. `state` has
        further fields of `specs.beats.Endpoint`."""
        self._send("endpoint", url=url, probed=probed, models=models, in_flight=in_flight, **state)

    def failure(self, message: str, traceback: str, blame: str, *, reason: str = "") -> None:
        """The failure that ends this process; the first one of the gang is the run's. `reason` is
        its kind in one word, as in `specs.beats.Failure`."""
        self._send("failure", message=message, traceback=traceback, blame=blame, reason=reason)


def environment_for(
    context: RankContext, local_world_size: int, base: dict[str, str] | None = None
) -> dict[str, str]:
    """torchrun-compatible rendezvous variables on top of `base` (default: os.environ)."""
    variables = dict(os.environ if base is None else base)
    variables.update(
        RANK=str(context.rank),
        WORLD_SIZE=str(context.world_size),
        LOCAL_RANK=str(context.local_rank),
        LOCAL_WORLD_SIZE=str(local_world_size),
        GROUP_RANK=str(context.node_rank),
        MASTER_ADDR=context.master_address,
        MASTER_PORT=str(context.master_port),
        QUARTERDECK_RUN_ID=context.order.run_id,
        QUARTERDECK_EPOCH=str(context.order.epoch),
    )
    return variables
