"""One look at the outbox for everybody who waits: streams and long polls."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from anyio import to_thread

from quarterdeck.api.problems import ProblemError
from quarterdeck.store.failures import UNAVAILABLE
from quarterdeck.store.record_queries import head
from quarterdeck.store.sessions import Database

_log = logging.getLogger(__name__)


class News:
    """Wakes waiters when the newest visible event or log chunk changes.

    The database is looked at every `poll_seconds`, once for all, and only while somebody waits.
    `check_room` refuses more than `most` streams and long polls.
    """

    def __init__(self, database: Database, poll_seconds: float, most: int) -> None:
        self._database = database
        self._poll_seconds = poll_seconds
        self._most = most
        self._admitted = 0
        self._waiting = 0
        self._head: tuple[int, int] | None = None
        self._changed = asyncio.Event()
        self._poller: asyncio.Task[None] | None = None

    @property
    def admitted(self) -> int:
        """Streams and long polls that are open."""
        return self._admitted

    def check_room(self) -> None:
        """Raise ProblemError `too_many_streams` when every place is taken."""
        if self._admitted >= self._most:
            raise ProblemError(
                "too_many_streams",
                f"{self._most} streams and long polls are open: close one, or repeat later",
                headers={"Retry-After": "5"},
            )

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold one place while the block runs."""
        self._admitted += 1
        try:
            yield
        finally:
            self._admitted -= 1

    def mark(self) -> asyncio.Event:
        """Take this before reading; `wait` on it returns at once if news came since."""
        return self._changed

    async def wait(self, mark: asyncio.Event, seconds: float) -> bool:
        """Whether news came after `mark` was taken, at most `seconds` from now."""
        self._waiting += 1
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll(), name="outbox poller")
        try:
            async with asyncio.timeout(seconds):
                await mark.wait()
        except TimeoutError:
            return False
        finally:
            self._waiting -= 1
        return True

    async def _poll(self) -> None:
        while self._waiting:
            try:
                found = await to_thread.run_sync(self._look)
            except UNAVAILABLE as error:
                _log.warning("the outbox cannot be read: %s", type(error).__name__)
            else:
                # After a pause in which nobody looked, anything may have happened.
                if found != self._head:
                    self._head = found
                    self._changed.set()
                    self._changed = asyncio.Event()
            await asyncio.sleep(self._poll_seconds)

    def _look(self) -> tuple[int, int]:
        with self._database.read() as session:
            return head(session)

    async def close(self) -> None:
        """Stop looking."""
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.gather(self._poller, return_exceptions=True)
            self._poller = None
