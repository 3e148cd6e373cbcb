"""How long work tells that it lives, how far it is, and hears that it shall stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from quarterdeck_workers.rank.context import RankContext

_SAY_EVERY = 1.0
_BEAT_EVERY = 10.0


class Stopped(Exception):
    """The control plane asked to stop; nothing was published."""


class Reporter:
    """A progress callback that says `what: done of total` at most once a second.

    Raises Stopped from inside the work when a stop was requested.
    """

    def __init__(
        self, context: RankContext, what: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._context, self._what, self._clock = context, what, clock
        self._said = float("-inf")

    def __call__(self, done: int, total: int, message: str) -> None:
        check_stop(self._context)
        now = self._clock()
        if now - self._said < _SAY_EVERY and done != total:
            return
        self._said = now
        share = f"{100 * done // max(total, 1)} %"
        self._context.phase(f"{self._what}: {share} ({message})", running=True)
        self._context.heartbeat()


def check_stop(context: RankContext) -> None:
    """Raises Stopped when a stop was requested."""
    if context.stop_requested is not None:
        raise Stopped


@contextmanager
def beating(context: RankContext) -> Iterator[None]:
    """Signs of life from a thread, around one long call that cannot give its own."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(_BEAT_EVERY):
            context.heartbeat()

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
