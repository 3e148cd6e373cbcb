"""Server-sent events that survive a lost connection: `Last-Event-ID` and a retry budget."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from quarterdeck.client.errors import QuarterdeckError, ServerFailure, Unreachable
from quarterdeck.client.transport import Params, Transport, pauses

Content = TypeVar("Content", bound=BaseModel)

SILENCE = 35.0
"""Seconds without a byte after which a connection counts as lost: three keep-alives."""

OPENED = "open"
"""The comment with which a stream begins, before all that there is to tell."""


@dataclass(frozen=True)
class ServerEvent:
    """One message of a stream, as the HTML standard defines it."""

    id: str | None
    event: str
    data: str


def split_lines(parts: Iterable[str]) -> Iterator[str]:
    """Lines of a text that comes in parts, ended by LF, CR LF or CR alone: JSON may hold other
    characters that `str.splitlines` cuts at."""
    rest = ""
    for part in parts:
        rest += part
        held = "\r" if rest.endswith("\r") else ""  # half of CR LF, perhaps
        *lines, rest = re.split("\r\n|\n|\r", rest[: len(rest) - len(held)])
        rest += held
        yield from lines


def parse_events(lines: Iterable[str]) -> Iterator[ServerEvent]:
    """Messages from the lines of `text/event-stream`; a comment becomes an event `comment`.

    Follows https://html.spec.whatwg.org/multipage/server-sent-events.html, without `retry`.
    """
    identity: str | None = None
    event, data = "message", list[str]()
    for line in lines:
        if not line:
            if data:
                yield ServerEvent(identity, event, "\n".join(data))
            event, data = "message", []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not name:
            yield ServerEvent(identity, "comment", value)
        elif name == "data":
            data.append(value)
        elif name == "id" and "\0" not in value:
            identity = value
        elif name == "event":
            event = value


def follow(
    transport: Transport,
    path: str,
    kind: type[Content],
    params: Params,
    retry_seconds: float,
    on_reconnect: Callable[[str], None] | None = None,
    last_event_id: str | None = None,
    finished: Callable[[], bool] | None = None,
) -> Iterator[Content]:
    """Every message of a stream as `kind`, across reconnections, until it is finished.

    The end is an event named `end`, or silence while `finished()`: two keep-alives, or a stream
    that closes without a message. One that closes after some was cut off: the rest may come.
    A broken connection is taken up after the last message seen; without any message for
    `retry_seconds` of trying raises Unreachable.
    """
    last = last_event_id
    waits = pauses()
    lost_at: float | None = None
    while True:
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if last is not None:
            headers["Last-Event-ID"] = last
        try:
            over, silent = False, True
            with transport.stream(path, params, headers, SILENCE) as response:
                for message in parse_events(split_lines(response.iter_text())):
                    lost_at, waits = None, pauses()
                    last = message.id if message.id is not None else last
                    if message.event == "end":
                        return
                    if message.event == "comment" and message.data != OPENED:
                        if over:
                            return
                        # What came just before the end may still be on its way.
                        over = finished is not None and finished()
                    if message.event == "message":
                        silent = False
                        yield _read(kind, message.data)
            if silent and finished is not None and finished():
                return
            failure: QuarterdeckError = Unreachable(f"{transport.url}{path} ended its stream")
        except httpx.TransportError as error:
            failure = Unreachable(f"{transport.url} does not answer: {error or 'connection lost'}")
        except ServerFailure as error:
            failure = error
        now = transport.clock()
        lost_at = now if lost_at is None else lost_at
        pause = next(waits)
        if now + pause - lost_at > retry_seconds:
            raise failure
        if on_reconnect is not None:
            on_reconnect(str(failure))
        transport.sleep(pause)


def _read(kind: type[Content], data: str) -> Content:
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise QuarterdeckError(f"the stream sent something that is no {kind.__name__}") from error
