"""What surrounds every request: its id, its deadlines, its size, and headers of the answer."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quarterdeck.api.problems import ProblemError, crash_response, problem_response

_BEAT = re.compile(r"^/api/v1/(agents|runs)/[^/]+/beat$")
_UPLOAD = re.compile(r"^/api/v1/artifacts/[^/]+$")
_ID = re.compile(r"^[A-Za-z0-9._-]{1,64}$")
_PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
_PROTECTION = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": _PAGE_POLICY,
}


class RequestIdentity:
    """Gives every request an id (the caller's `X-Request-Id` when it is a plain word), and
    every answer that id and the headers that protect browsers."""

    def __init__(self, app: ASGIApp, new_id: Callable[[], str]) -> None:
        self.app = app
        self.new_id = new_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        identity = given if _ID.match(given) else self.new_id()
        scope.setdefault("state", {})["request_id"] = identity

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = identity
                for name, value in _PROTECTION.items():
                    headers.setdefault(name, value)
                if scope["path"].startswith("/api/"):
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self.app(scope, receive, send_with_headers)


class BodyLimit:
    """Refuses bodies that are too large or too slow, and addresses with control characters.

    A body must have arrived after `seconds`; of an upload each part must come within them.
    """

    def __init__(
        self, app: ASGIApp, limit: int, machine_limit: int, upload_limit: int, seconds: float
    ) -> None:
        self.app = app
        self.limit = limit
        self.machine_limit = machine_limit
        self.upload_limit = upload_limit
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        upload = is_upload(scope)
        limit = self.machine_limit if _BEAT.match(scope["path"]) else self.limit
        limit = self.upload_limit if upload else limit
        try:
            self._check_head(scope, limit)
        except ProblemError as error:
            await problem_response(error, scope["path"])(scope, receive, send)
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.seconds
        received, complete = 0, False

        async def receive_limited() -> Message:
            nonlocal received, complete, deadline
            if complete:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError as error:
                raise ProblemError(
                    "body_too_slow", f"the body did not arrive within {self.seconds:g} s"
                ) from error
            deadline = loop.time() + self.seconds if upload else deadline
            received += len(message.get("body", b""))
            if received > limit:
                raise _too_large(limit)
            complete = not message.get("more_body", False)
            return message

        await self.app(scope, receive_limited, send)

    @staticmethod
    def _check_head(scope: Scope, limit: int) -> None:
        length = Headers(scope=scope).get("content-length", "0")
        if length.isdigit() and int(length) > limit:
            raise _too_large(limit)
        if "\x00" in scope["path"] or b"%00" in scope.get("query_string", b""):
            raise ProblemError("invalid_request", "the address holds a NUL character: remove it")


def is_upload(scope: Scope) -> bool:
    """Whether the request sends an artifact's content."""
    return scope["method"] == "PUT" and _UPLOAD.match(scope["path"]) is not None


def _too_large(limit: int) -> ProblemError:
    return ProblemError(
        "body_too_large",
        f"the body is over {limit} bytes: send less",
        headers={"Connection": "close"},
    )


class CatchFailures:
    """Answers a failure of ours with a problem, inside the other middlewares: it is counted and
    carries the request's id like any answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = False

        async def send_watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, send_watched)
        except Exception as error:
            if begun:
                raise
            identity = str(scope.get("state", {}).get("request_id", ""))
            await crash_response(identity, scope["path"], error)(scope, receive, send)


class AnswerDeadline:
    """Ends a request whose answer has not begun in time; streams may go on once begun. An upload
    is answered at its end, so it has a time of its own."""

    def __init__(self, app: ASGIApp, seconds: float, upload_seconds: float) -> None:
        self.app = app
        self.seconds = seconds
        self.upload_seconds = upload_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = False
        seconds = self.upload_seconds if is_upload(scope) else self.seconds

        async def send_watched(message: Message) -> None:
            nonlocal begun
            begun = True
            limit.reschedule(None)
            await send(message)

        try:
            async with asyncio.timeout(seconds) as limit:
                await self.app(scope, receive, send_watched)
        except TimeoutError:
            if begun or not limit.expired():
                raise
            error = ProblemError(
                "request_too_slow", f"no answer within {seconds:g} s: repeat the request"
            )
            await problem_response(error, scope["path"])(scope, receive, send)
