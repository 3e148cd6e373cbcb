"""One lazy timer for all the waits of a request: setting a deadline costs an assignment."""

from __future__ import annotations

import asyncio

_TICK = 0.5


class Patience:
    """While `due` (on the loop's clock) lies in the past, the task that made this is cancelled,
    at most half a second late, and `lost` says so."""

    __slots__ = ("_loop", "_task", "_timer", "due", "lost")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._timer = self._loop.call_later(_TICK, self._look)
        self.due = float("inf")
        self.lost = False

    def end(self) -> None:
        """No more waits."""
        self._timer.cancel()

    def absorb(self) -> bool:
        """Whether the cancellation that was just caught came from here."""
        return self.lost and self._task is not None and self._task.uncancel() <= 0

    def _look(self) -> None:
        left = self.due - self._loop.time()
        if left <= 0 and self._task is not None:
            self.lost = True
            self._task.cancel()
            return
        self._timer = self._loop.call_later(min(left, _TICK), self._look)
