"""Giving work up, and with it the replica's, as soon as the client has left."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from quarterdeck.gateway.asgi import ClientGone


class Watched:
    """One client that is waited for; its server says when it has left."""

    _task: asyncio.Task[Any] | None = None
    left = False

    def leave(self) -> None:
        """The connection is lost; once more says nothing new, and would cancel twice."""
        if self.left:
            return
        self.left = True
        if self._task is not None:
            self._task.cancel()

    async def watch(self, work: Coroutine[Any, Any, int]) -> int:
        """The result of the work, unless the client leaves: ClientGone."""
        if self.left:
            work.close()
            raise ClientGone
        task = self._task = asyncio.current_task()
        try:
            return await work
        except asyncio.CancelledError:
            if self.left and task is not None and task.uncancel() <= 0:
                raise ClientGone from None
            raise
        finally:
            self._task = None
