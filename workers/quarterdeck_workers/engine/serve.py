"""A replica of a service: load a model, answer HTTP, say so, drain when told to stop."""

from __future__ import annotations

import json
import logging
import math
import socket
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from quarterdeck.artifacts.store import ArtifactStore
from quarterdeck_workers.engine.builtin import BuiltinEngine, EngineLimits
from quarterdeck_workers.engine.loading import LoadedModel, load
from quarterdeck_workers.engine.server import EngineHost, create_app
from quarterdeck_workers.rank.context import RankContext, StopRequest

_log = logging.getLogger(__name__)
_REPORT_EVERY = 2.0
_POLL_EVERY = 0.1
_PROBE_TIMEOUT = 120.0
_LAST_ANSWERS = 1.0  # seconds of the deadline kept for closing connections


@dataclass(frozen=True)
class EngineArguments:
    """`engine_args` of a service with engine `builtin`.

    Lengths are tokens, sizes sequences. `max_model_len` is at most the model's own context
    length (None: that); `max_waiting` None is four batches.
    """

    max_model_len: int | None = None
    max_batch_size: int = 16
    max_waiting: int | None = None
    max_prompt_tokens_per_step: int = 4096
    max_cache_tokens: int | None = None
    device: str | None = None
    dtype: str = "auto"

    @classmethod
    def parse(cls, values: dict[str, int | float | str | bool]) -> EngineArguments:
        """Read and check them; raises ValueError naming field, value and what is allowed."""
        known = cls.__dataclass_fields__
        foreign = sorted(set(values) - set(known))
        if foreign:
            raise ValueError(
                f"engine_args.{foreign[0]}: unknown; the builtin engine knows {sorted(known)}"
            )
        for name, value in values.items():
            if name in ("device", "dtype"):
                if not isinstance(value, str):
                    raise ValueError(f"engine_args.{name}: {value!r} is not a text")
            elif isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"engine_args.{name}: {value!r} is not a whole number from 1")
        return cls(**values)  # type: ignore[arg-type]

    def limits(self, loaded: LoadedModel) -> EngineLimits:
        """Bounds for one model; raises ValueError where they exceed what it can do."""
        longest = self.max_model_len or loaded.context_length
        if longest > loaded.context_length:
            raise ValueError(
                f"engine_args.max_model_len: {longest} is more than the model's context of "
                f"{loaded.context_length} tokens: lower it"
            )
        return EngineLimits(
            max_model_len=longest,
            max_batch_size=self.max_batch_size,
            max_waiting=self.max_waiting or 4 * self.max_batch_size,
            max_prompt_tokens_per_step=self.max_prompt_tokens_per_step,
            max_cache_tokens=self.max_cache_tokens,
        )


class EngineServer:
    """One engine behind one port: bound first, loaded while `/health` already says 503."""

    def __init__(self, model_name: str, arguments: EngineArguments, host: str, port: int = 0):
        self._arguments = arguments
        self.state = EngineHost(model_name)
        self._socket = socket.create_server((host, port), backlog=512)
        self.url = f"http://{host}:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(
            create_app(self.state), log_level="warning", access_log=False, lifespan="off",
            timeout_keep_alive=75, ws="none",
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name="http", daemon=True
        )
        self._engine: BuiltinEngine | None = None

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def load(self, folder: Path) -> None:
        """Open the model and start its loop."""
        loaded = load(folder, device=self._arguments.device, dtype=self._arguments.dtype)
        limits = self._arguments.limits(loaded)
        self._engine = BuiltinEngine(loaded, limits, self.state.metrics)
        self._engine.start()
        self.state.max_choices = limits.max_waiting
        self.state.loaded = loaded
        self.state.engine = self._engine

    @property
    def alive(self) -> bool:
        """The HTTP thread lives and, once loaded, the engine's loop too."""
        return self._thread.is_alive() and (self._engine is None or self._engine.alive())

    @property
    def in_flight(self) -> int:
        return self.state.in_flight

    def probe(self, timeout: float = _PROBE_TIMEOUT) -> int:
        """Generate a token through the HTTP surface; how many came. Raises OSError otherwise."""
        loaded = self.state.loaded
        start = next(iter(sorted(loaded.eos)), 0) if loaded is not None else 0
        body = {
            "model": self.state.model_name,
            "prompt": [start],
            "max_tokens": 1,
            "temperature": 0,
            "ignore_eos": True,
        }
        request = urllib.request.Request(
            f"{self.url}/v1/completions",
            data=json.dumps(body).encode(),
            headers={"content-type": "application/json"},
        )
        # The node's own address is never behind a proxy, whatever the environment says.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=timeout) as answer:
            tokens = json.load(answer)["usage"]["completion_tokens"]
        if tokens < 1:
            raise OSError(f"{self.url} answered without generating a token")
        return int(tokens)

    def drain(self, deadline: float) -> bool:
        """Take nothing new and wait for what runs until a `time.monotonic()` moment; whether
        everything was answered."""
        if self._engine is not None:
            self._engine.drain()
        while self.in_flight > 0 and time.monotonic() < deadline and self.alive:
            time.sleep(_POLL_EVERY)
        return self.in_flight == 0

    def close(self) -> None:
        """End engine and HTTP server; what still runs is answered with an error."""
        if self._engine is not None:
            self._engine.stop()
        self._server.should_exit = True
        self._thread.join(timeout=5.0)
        if self._thread.is_alive():
            self._server.force_exit = True
            self._thread.join(timeout=5.0)
        self._socket.close()


def main(context: RankContext) -> None:
    """Serve `order.inputs['model'][0]` under the service's name until told to stop.

    Raises ValueError for wrong `engine_args`, OSError for an unreadable model and RuntimeError
    when the engine's loop dies.
    """
    order = context.order
    models = order.inputs.get("model") or []
    if not models:
        raise ValueError("inputs.model: the order names no model version to serve")
    arguments = EngineArguments.parse(order.spec.get("engine_args") or {})
    address = _address(context.master_address)
    server = EngineServer(order.owner_name, arguments, address)
    server.start()
    try:
        context.phase(f"loading {models[0].name}@{models[0].version}")
        folder = local_folder(models[0].uri, order.artifacts_options, context.workdir)
        server.load(folder)
        context.heartbeat()
        context.phase("probing")
        server.probe()
        context.phase(f"serving on {server.url}", running=True)
        stop = _report_until_stop(context, server)
        context.phase(f"draining {server.in_flight} requests")
        _drain(context, server, stop)
    finally:
        server.close()


def _report_until_stop(context: RankContext, server: EngineServer) -> StopRequest:
    reported = -math.inf
    while (stop := context.stop_requested) is None:
        if not server.alive:
            raise RuntimeError("the engine's loop has died or stands still: see the log above")
        if time.monotonic() - reported >= _REPORT_EVERY:
            reported = time.monotonic()
            _report(context, server)
        time.sleep(_POLL_EVERY)
    return stop


def _report(context: RankContext, server: EngineServer) -> None:
    context.endpoint(
        server.url, probed=True, models=[context.order.owner_name], in_flight=server.in_flight
    )
    context.heartbeat()


def _drain(context: RankContext, server: EngineServer, stop: StopRequest) -> None:
    began = time.monotonic()
    left = max(0.0, stop.deadline - began - _LAST_ANSWERS)
    complete = server.drain(began + left)
    if not complete:
        context.event(
            "replica.drain_incomplete",
            f"{server.in_flight} requests were still running at the deadline",
            in_flight=server.in_flight,
        )


def _address(master: str) -> str:
    """An address of this node that others reach: the rendezvous address where it is ours, else
    the one that routes towards it."""
    try:
        with socket.create_server((master, 0)):
            return master
    except OSError:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((master, 9))  # a datagram socket: nothing is sent
            return str(probe.getsockname()[0])


def local_folder(uri: str, options: dict[str, object], workdir: Path) -> Path:
    """The model's files as a local folder: as they are on a local file system, else a copy."""
    store = ArtifactStore(uri, options)
    if store.root is not None:
        if not store.root.is_dir():
            raise FileNotFoundError(f"model folder {uri}: is not on this node's file system")
        return store.root
    target = workdir / "model"
    store.get_folder("", target)
    return target
