"""One HTTP connection pool to the control plane: key, timeouts and bounded retries."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from quarterdeck.client.errors import QuarterdeckError, Unreachable, error_from

Answer = TypeVar("Answer", bound=BaseModel)
Params = Mapping[str, str | int | float | bool | Sequence[str | int] | None]
"""Query parameters; several values repeat the name."""

API = "/api/v1"
CONNECT_TIMEOUT = 5.0
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
NOT_NOW = frozenset({429, 503})
"""Statuses that say "not now": the request had no effect."""
BROKEN = frozenset({502, 504})
"""Statuses of a proxy that lost the api: whether the request had an effect is unknown."""


def pauses(jitter: Callable[[], float] = random.random) -> Iterator[float]:
    """Seconds between attempts without end: doubling from 0.1 to 2, each 50 to 100 % of that."""
    pause = FIRST_PAUSE
    while True:
        yield pause * (0.5 + 0.5 * jitter())
        pause = min(LONGEST_PAUSE, pause * 2)


class Transport:
    """Sends requests with a bearer key; the key never appears in messages or `repr`.

    `timeout` bounds each attempt's silence, `retry_seconds` the time over all attempts. A request
    is repeated when no connection came about or the answer was "not now"; a broken one only
    when the caller says that repeating is harmless (`repeatable`).
    """

    def __init__(
        self,
        url: str,
        key: str | None,
        timeout: float = 30.0,
        retry_seconds: float = 5.0,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = url.rstrip("/")
        self.timeout = timeout
        self.retry_seconds = retry_seconds
        self.clock = clock
        self.sleep = sleep
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(
            base_url=self.url,
            headers={**headers, "User-Agent": "quarterdeck"},
            timeout=httpx.Timeout(timeout, connect=min(CONNECT_TIMEOUT, timeout)),
            transport=transport,
            follow_redirects=False,
            trust_env=False,
        )

    def close(self) -> None:
        self._http.close()

    def send(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        body: BaseModel | Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        repeatable: bool | None = None,
    ) -> httpx.Response:
        """The answer below status 400. Raises a QuarterdeckError subclass otherwise."""
        again = repeatable if repeatable is not None else method in ("GET", "PUT", "DELETE")
        content = _encode(body)
        sent = dict(headers or {})
        if content is not None:
            sent["Content-Type"] = "application/json"
        limit = self._http.timeout if timeout is None else httpx.Timeout(timeout, connect=5.0)
        deadline = self.clock() + self.retry_seconds
        for pause in pauses():
            try:
                response = self._http.request(
                    method, path, params=_plain(params), content=content, headers=sent,
                    timeout=limit,
                )  # fmt: skip
            except httpx.ConnectError as error:
                failure: QuarterdeckError = Unreachable(f"{self.url} does not answer: {error}")
            except (httpx.TransportError, httpx.InvalidURL) as error:
                failure = Unreachable(f"{self.url}{path}: {error or type(error).__name__}")
                if not again:
                    raise failure from error
            else:
                if response.is_success:
                    return response
                failure = error_from(response)
                if response.status_code not in (NOT_NOW | BROKEN if again else NOT_NOW):
                    raise failure
            if self.clock() + pause > deadline:
                raise failure
            self.sleep(pause)
        raise AssertionError("pauses() never ends")

    def get(self, kind: type[Answer], path: str, **options: Any) -> Answer:
        """GET, read as `kind`."""
        return self.read(kind, self.send("GET", path, **options))

    def post(self, kind: type[Answer], path: str, **options: Any) -> Answer:
        """POST, read as `kind`."""
        return self.read(kind, self.send("POST", path, **options))

    @staticmethod
    def read(kind: type[Answer], response: httpx.Response) -> Answer:
        """The body as `kind`; raises QuarterdeckError when something else answered."""
        try:
            return kind.model_validate_json(response.content)
        except ValidationError as error:
            raise QuarterdeckError(
                f"{response.request.url.path} answered something that is no {kind.__name__}: "
                "is this address a Quarterdeck api?"
            ) from error

    def upload(
        self, path: str, parts: Iterable[bytes], size: int, *, params: Params | None, timeout: float
    ) -> httpx.Response:
        """PUT `size` bytes, once. `timeout` bounds the silence. Raises QuarterdeckError."""
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        try:
            response = self._http.put(
                path, params=_plain(params), content=parts, headers=headers,
                timeout=httpx.Timeout(timeout, connect=CONNECT_TIMEOUT),
            )  # fmt: skip
        except httpx.TransportError as error:
            raise Unreachable(f"{self.url}{path}: {error or type(error).__name__}") from error
        if not response.is_success:
            raise error_from(response)
        return response

    @contextmanager
    def stream(
        self, path: str, params: Params | None, headers: Mapping[str, str], silence: float
    ) -> Iterator[httpx.Response]:
        """A streamed GET; `silence` is the longest wait for its next byte, in seconds."""
        with self._http.stream(
            "GET", path, params=_plain(params), headers=dict(headers),
            timeout=httpx.Timeout(silence, connect=CONNECT_TIMEOUT),
        ) as response:  # fmt: skip
            if not response.is_success:
                response.read()
                raise error_from(response)
            yield response


def _encode(body: BaseModel | Mapping[str, Any] | None) -> bytes | None:
    if body is None:
        return None
    if isinstance(body, BaseModel):
        return body.model_dump_json().encode()
    return to_json(dict(body))


def _plain(params: Params | None) -> dict[str, list[str]] | None:
    if params is None:
        return None
    return {
        name: [
            str(each).lower() if isinstance(each, bool) else str(each)
            for each in ([value] if isinstance(value, str | int | float) else value)
        ]
        for name, value in params.items()
        if value is not None
    }
