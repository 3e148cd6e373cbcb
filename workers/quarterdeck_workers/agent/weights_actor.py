"""A small Ray actor that fetches one model's weights into its node's cache, out of the way of
what runs there. It ends with the agent that started it; the next one goes on with what is there."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import psutil
import ray
from ray.exceptions import ActorDiedError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from quarterdeck.artifacts.errors import ArtifactError, DiskFull
from quarterdeck.specs.protocol import WeightsOrder
from quarterdeck_workers.engine.model_files import bring_ahead
from quarterdeck_workers.supervisor.berths import NODE_HOME

_NICE = 10
_PAUSES = (1.0, 4.0, 16.0)
"""Seconds before a fetch that broke goes on."""
_CALL_SECONDS = 5.0
_FINAL = (ArtifactError, FileNotFoundError, PermissionError, ImportError, ValueError)
"""What trying again does not mend."""


@dataclass(frozen=True)
class FetchState:
    """How far it is. `seconds` since its start."""

    state: Literal["fetching", "ready", "failed"] = "fetching"
    found: bool = False
    bytes_done: int = 0
    seconds: float = 0.0
    message: str = ""


class FetcherDied(Exception):
    """The actor is gone, and perhaps its node."""


class WeightsFetcher:
    """The actor's side."""

    def __init__(self) -> None:
        self._state = FetchState()
        self._started = time.monotonic()

    def start(self, order: WeightsOrder) -> None:
        """Begin, at low priority."""
        os.nice(_NICE)
        with suppress(psutil.Error, OSError):  # where the kernel forbids it
            psutil.Process().ionice(psutil.IOPRIO_CLASS_BE, 7)
        threading.Thread(target=self._run, args=(order,), name="fetch", daemon=True).start()

    def state(self) -> FetchState:
        """How far it is now."""
        if self._state.state != "fetching":
            return self._state
        return replace(self._state, seconds=time.monotonic() - self._started)

    def _run(self, order: WeightsOrder) -> None:
        for pause in (*_PAUSES, None):
            try:
                found = bring_ahead(order, Path(os.environ[NODE_HOME]), self._tell, lambda: False)
            except Exception as error:
                if pause is None or isinstance(error, _FINAL):
                    self._end("failed", message=_words(error))
                    return
                self._state = replace(self._state, message=f"trying again: {_words(error)}")
                time.sleep(pause)
            else:
                size = sum(file.size for file in order.files)
                self._end("ready", found=found, bytes_done=size)
                return

    def _tell(self, done: int) -> None:
        self._state = replace(self._state, bytes_done=done, message="")

    def _end(self, state: Literal["ready", "failed"], message: str = "", **more: Any) -> None:
        seconds = time.monotonic() - self._started
        self._state = replace(self._state, state=state, seconds=seconds, message=message, **more)


WeightsFetcherActor = ray.remote(WeightsFetcher)


class NodeFetcher:
    """The agent's side. `bounded` runs a call of Ray's within a limit of time."""

    def __init__(
        self, node_id: str, order: WeightsOrder, bounded: Callable[[Callable[[], Any]], Any]
    ) -> None:
        """Raises RaySilent."""
        self._bounded = bounded

        def begin() -> Any:
            actor = WeightsFetcherActor.options(
                num_cpus=0,
                max_restarts=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
            ).remote()
            actor.start.remote(order)  # type: ignore[attr-defined]
            return actor

        self._actor = bounded(begin)

    def state(self) -> FetchState | None:
        """How far it is; None where it does not answer now. Raises FetcherDied, RaySilent."""
        try:
            found: FetchState = self._bounded(
                lambda: ray.get(self._actor.state.remote(), timeout=_CALL_SECONDS - 1)
            )
        except ActorDiedError as error:
            raise FetcherDied(str(error).splitlines()[0]) from error
        except RayError:
            return None
        return found

    def stop(self) -> None:
        """End it; what it fetched stays. Raises RaySilent."""
        self._bounded(lambda: ray.kill(self._actor))


def _words(error: Exception) -> str:
    if isinstance(error, DiskFull):
        needed, free = (f"{amount / 1e9:,.1f} GB" for amount in (error.needed, error.free))
        return (
            f"needs {needed}, {free} free beside the tenth of the disk that stays free: make room "
            "on the node"
        )
    return f"{type(error).__name__}: {error}"
