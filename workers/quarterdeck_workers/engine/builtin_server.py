"""The builtin engine behind an HTTP port of this process."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import uvicorn

from quarterdeck_workers.engine.builtin import BuiltinEngine, EngineLimits
from quarterdeck_workers.engine.host import EngineHost
from quarterdeck_workers.engine.loading import LoadedModel, load
from quarterdeck_workers.engine.server import create_app
from quarterdeck_workers.engine.shared_memory import cache_bytes_per_token, cache_tokens

_POLL_EVERY = 0.1


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
    """One engine behind one port: bound first, loaded while `/health` already says 503.

    With a `share` below 1 it uses that part of its accelerator's memory at most.
    """

    def __init__(
        self, model_name: str, arguments: EngineArguments, host: str, port: int = 0,
        share: float = 1.0,
    ) -> None:  # fmt: skip
        self._arguments = arguments
        self._share = share
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
        device = self._arguments.device
        shares = self._share < 1 and torch.cuda.is_available() and device != "cpu"
        if shares:  # beyond it this process runs out of memory, not its neighbour
            torch.cuda.set_per_process_memory_fraction(self._share)
        loaded = load(folder, device=device, dtype=self._arguments.dtype)
        limits = self._arguments.limits(loaded)
        if shares and limits.max_cache_tokens is None:
            limits = replace(limits, max_cache_tokens=self._cache_tokens(loaded, limits))
        self._engine = BuiltinEngine(loaded, limits, self.state.metrics)
        self._engine.start()
        self.state.max_choices = limits.max_waiting
        self.state.loaded = loaded
        self.state.engine = self._engine

    def _cache_tokens(self, loaded: LoadedModel, limits: EngineLimits) -> int:
        model = loaded.model
        fits = cache_tokens(
            self._share, torch.cuda.mem_get_info()[1], torch.cuda.memory_allocated(),
            cache_bytes_per_token(model.config, model.dtype.itemsize), limits.max_model_len,
        )  # fmt: skip
        return min(fits, limits.cache_tokens)

    @property
    def alive(self) -> bool:
        """The HTTP thread lives and, once loaded, the engine's loop too."""
        return self._thread.is_alive() and (self._engine is None or self._engine.alive())

    @property
    def in_flight(self) -> int:
        return self.state.in_flight

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
