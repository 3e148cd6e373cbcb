"""Server-sent events: messages with ids, keep-alives, an end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from anyio import to_thread
from fastapi import Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from quarterdeck.api.state import ApiState

Content = TypeVar("Content", bound=BaseModel)
BATCH = 500
END = "event: end\ndata: {}\n\n"


@dataclass(frozen=True)
class Batch(Generic[Content]):
    """What a look found: items with their ids, and whether nothing will come any more.

    `place` is where to look on when it is not the last item's id; `more` says that the look was
    cut short.
    """

    items: Sequence[tuple[str, Content]]
    finished: bool = False
    place: str | None = None
    more: bool = False


def wants_stream(request: Request, follow: bool) -> bool:
    """Whether the caller asks for a stream: by `?follow=1` or by the header Accept."""
    return follow or "text/event-stream" in request.headers.get("accept", "")


async def stream(
    state: ApiState, look: Callable[[str | None], Batch[Content]], last_id: str | None
) -> StreamingResponse:
    """Answer with what `look(last id)` finds, again whenever there is news, until it is finished.

    Raises ProblemError `too_many_streams`. The first look comes before the answer begins, so
    that what is wrong is answered as a problem.
    """
    state.news.check_room()
    mark = state.news.mark()
    first = await to_thread.run_sync(look, last_id)
    return StreamingResponse(
        _messages(state, look, last_id, first, mark),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _messages(
    state: ApiState,
    look: Callable[[str | None], Batch[Content]],
    last_id: str | None,
    batch: Batch[Content],
    mark: asyncio.Event,
) -> AsyncIterator[str]:
    settings = state.settings
    until = asyncio.get_running_loop().time() + settings.longest_stream
    with state.news.place():
        yield ": open\n\n"
        while True:
            for last_id, item in batch.items:
                yield f"id: {last_id}\ndata: {item.model_dump_json()}\n\n"
            last_id = batch.place or last_id
            if len(batch.items) < BATCH and not batch.more:
                if batch.finished:
                    yield END
                    return
                while not await state.news.wait(mark, settings.keep_alive_seconds):
                    if asyncio.get_running_loop().time() > until:
                        return
                    yield ": keep-alive\n\n"
                if asyncio.get_running_loop().time() > until:
                    return
            mark = state.news.mark()
            batch = await to_thread.run_sync(look, last_id)
