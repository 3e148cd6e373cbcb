"""Giving work up, and with it the replica's, as soon as the client has left.

The server's protocol calls back when a connection is lost (an ASGI extension of our own); under
another server a second task waits for the disconnect message, which costs more for each request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from quarterdeck.gateway.asgi import ClientGone, Receive, Scope, until_gone

EXTENSION = "quarterdeck.on_leave"


class Watched:
    """What the protocol puts into a request's scope: whom to tell that its client left."""

    __slots__ = ("_task", "left")

    def __init__(self) -> None:
        self._task: asyncio.Task[Any] | None = None
        self.left = False

    def leave(self) -> None:
        """The connection is lost; once more says nothing new, and would cancel twice."""
        if self.left:
            return
        self.left = True
        if self._task is not None:
            self._task.cancel()

    async def run(self, work: Coroutine[Any, Any, int]) -> int:
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


async def while_there(work: Coroutine[Any, Any, int], scope: Scope, receive: Receive) -> int:
    """The result of the work, unless the client leaves: ClientGone."""
    watched = (scope.get("extensions") or {}).get(EXTENSION)
    if isinstance(watched, Watched):
        return await watched.run(work)
    serving = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(until_gone(receive))
    try:
        await asyncio.wait({serving, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            return serving.result()
        raise ClientGone
    finally:
        leaving.cancel()
        serving.cancel()
        await asyncio.gather(serving, leaving, return_exceptions=True)
