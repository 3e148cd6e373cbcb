"""Giving work up, and with it the replica's, as soon as the client has left."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from quarterdeck.gateway.asgi import ClientGone


class Watched:
    """One client that may leave, as its server sees it. `task` is the request's."""

    task: asyncio.Task[None] | None = None
    left = False
    _watched = False

    def leave(self) -> None:
        """The connection is lost; once more says nothing new, and would cancel twice."""
        if self.left:
            return
        self.left = True
        if self._watched and self.task is not None:
            self.task.cancel()

    def watch(self, work: Coroutine[Any, Any, int]) -> Coroutine[Any, Any, int]:
        """The work, during which, and after which, the client's leaving cancels the task."""
        if self.left:
            work.close()
            raise ClientGone
        self._watched = True
        return work

    def absorbed(self) -> bool:
        """Whether the cancellation that was just caught came from here."""
        return self.left and self.task is not None and self.task.uncancel() <= 0
