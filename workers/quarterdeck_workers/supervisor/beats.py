"""Sending beats until they are acknowledged, and hearing what the control plane wants."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from quarterdeck.client.agents import RunClient
from quarterdeck.client.errors import Invalid, QuarterdeckError, StaleEpoch, TooLarge
from quarterdeck.specs.beats import BeatReply
from quarterdeck_workers.supervisor.spool import Spool

EVERY_SECONDS = 2.0
_TIMEOUT_SECONDS = 10.0
_LONGEST_PAUSE = 5.0
_BACKLOG_PAUSE = 0.25
"""Between beats that only carry what has piled up: a run that floods leaves others room."""
log = logging.getLogger(__name__)


class Beats:
    """The stream of beats of one run; one at a time, the next only after the last one's answer.

    `status` gives the RunBeat fields of the present state, `on_reply` takes each answer; a stale
    epoch is answered to it as the order `die`.
    """

    def __init__(
        self,
        client: RunClient,
        run_id: str,
        spool: Spool,
        status: Callable[[], dict[str, Any]],
        on_reply: Callable[[BeatReply], None],
    ) -> None:
        self._client = client
        self._run_id = run_id
        self._spool = spool
        self._status = status
        self._on_reply = on_reply
        self._news = asyncio.Event()
        self._failures = 0

    def hurry(self) -> None:
        """There is news: do not wait for the next two seconds."""
        self._news.set()

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            sent = await self.send()
            if sent and self._spool.backlog:
                await asyncio.sleep(_BACKLOG_PAUSE)
                continue
            with suppress(TimeoutError):
                await asyncio.wait_for(self._pause_or_news(), self._pause())
            self._news.clear()

    async def _pause_or_news(self) -> None:
        if self._failures:
            await asyncio.Event().wait()  # news does not make an absent api answer
        await self._news.wait()

    def _pause(self) -> float:
        if self._failures:
            return min(_LONGEST_PAUSE, 0.5 * 2.0 ** min(self._failures, 5))
        return EVERY_SECONDS

    async def send(self) -> bool:
        """Send the waiting or the next beat once; True when it was acknowledged."""
        beat = self._spool.next(self._status(), datetime.now(UTC))
        try:
            reply = await asyncio.to_thread(self._client.beat, self._run_id, beat)
        except StaleEpoch as error:
            self._on_reply(BeatReply(order="die", reason=str(error)))
            return False
        except (Invalid, TooLarge) as error:
            left = self._spool.lighten()
            log.error("beat %d refused (%s): sent again lighter: %s", beat.seq, error, left)
            self._failures += 1
            return False
        except QuarterdeckError as error:
            if self._failures == 0:
                log.warning("the api does not take beats: %s; spooling", error)
            self._failures += 1
            return False
        self._failures = 0
        self._spool.acknowledge(max(beat.seq, reply.acked_seq))
        self._on_reply(reply)
        return True

    async def drain(self, grace: float, abandoned: Callable[[], bool]) -> bool:
        """Send until everything is acknowledged; False after `grace` seconds, or when
        `abandoned` says that nobody wants to hear it."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace
        final_sent = False
        while not (final_sent and self._spool.empty):
            # Only a beat made now, with all that is left, carries the final state.
            final = not self._spool.pending and not self._spool.backlog
            if await self.send():
                final_sent = final
                continue
            if abandoned() or loop.time() > deadline:
                return False
            await asyncio.sleep(self._pause())
        return True


def client_for(api_url: str, run_key: str) -> RunClient:
    """A client whose retries are the caller's."""
    return RunClient(api_url, run_key, timeout=_TIMEOUT_SECONDS, retry_seconds=0.0)
