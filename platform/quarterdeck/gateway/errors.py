"""Refusals in OpenAI's shape."""

from __future__ import annotations

import json


class ApiError(Exception):
    """Answers `{"error": {message, type, param, code}}`.

    `retry_after` is seconds. `close` ends the connection after the answer, for requests whose
    body was not read to its end.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        type_: str = "invalid_request_error",
        retry_after: int | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after = retry_after
        self.close = close
        self.content = {"error": {"message": message, "type": type_, "param": param, "code": code}}

    def body(self) -> bytes:
        """The JSON text."""
        return json.dumps(self.content, ensure_ascii=False).encode()

    def event(self) -> bytes:
        """The same as a server-sent event, for streams that have begun."""
        return b"data: " + self.body() + b"\n\n"


def key_unknown(message: str) -> ApiError:
    """401: no key, a malformed or an unknown one."""
    return ApiError(401, message, code="invalid_api_key", type_="authentication_error", close=True)


def unavailable(message: str, code: str, retry_after: int = 1, *, close: bool = False) -> ApiError:
    """503: trying again later makes sense."""
    return ApiError(
        503, message, code=code, type_="server_error", retry_after=retry_after, close=close
    )


def timed_out(message: str) -> ApiError:
    """504: the replica did not answer in time."""
    return ApiError(504, message, code="timeout", type_="server_error")
