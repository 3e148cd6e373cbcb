"""Holding keys to their limits, and telling clients what is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from quarterdeck.gateway.access_log import Record
from quarterdeck.gateway.asgi import Headers
from quarterdeck.gateway.errors import ApiError
from quarterdeck.gateway.metrics import GatewayMetrics
from quarterdeck.routing.limits import KeyLimits
from quarterdeck.specs.gateway_snapshot import GatewaySnapshot, KeyDigest
from quarterdeck.specs.observations import GatewayShares

_MILLISECONDS = 1000


def limited(key: KeyDigest) -> bool:
    """Whether a key has any limit."""
    return not (key.requests_per_minute is key.tokens_per_minute is key.streams is None)


class Limits:
    """The limits of every key that has some, in one gateway."""

    def __init__(self, clock: Callable[[], float], metrics: GatewayMetrics) -> None:
        self._clock = clock
        self._metrics = metrics
        self._keys: dict[str, KeyLimits] = {}
        self._asked: dict[str, float] = {}
        self._gateways = 1

    @contextmanager
    def hold(self, key: KeyDigest, guessed: int, record: Record) -> Iterator[Headers]:
        """For as long as the request lasts; its record then says what it used. The headers say
        what is left. Raises ApiError 429 naming the limit that is reached."""
        limits = self._keys.get(key.sha256)
        if limits is None:
            limits = self._keys[key.sha256] = KeyLimits(share=1.0 / self._gateways)
        weight = guessed if key.tokens_per_minute is not None else 1
        self._asked[key.sha256] = self._asked.get(key.sha256, 0.0) + weight
        limits.requests_per_minute = key.requests_per_minute
        limits.tokens_per_minute = key.tokens_per_minute
        limits.streams = key.streams
        refused = limits.enter(guessed, self._clock())
        if refused is not None:
            self._metrics.limited.labels(refused.limit).inc()
            allowed = getattr(key, _FIELDS[refused.limit])
            raise ApiError(
                429,
                f"key {key.name!r} has reached its limit of {allowed} {_WORDS[refused.limit]}: "
                f"try again in {refused.retry_after} s",
                code="rate_limit_exceeded",
                type_="requests" if refused.limit != "tokens_per_minute" else "tokens",
                retry_after=refused.retry_after,
            )
        try:
            yield _headers(limits)
        finally:
            used = record.tokens_in + record.tokens_out
            # An engine that reports no usage is charged the guess.
            used = guessed if record.status == 200 and not record.tokens_in else used
            limits.leave(guessed, used, self._clock())

    def demand(self, seconds: float) -> dict[str, float]:
        """What each key asked for since the last call, a second; refused requests too."""
        asked, self._asked = self._asked, {}
        return {key: amount / max(seconds, 0.001) for key, amount in asked.items()}

    def share(self, told: GatewayShares) -> None:
        """This gateway's part of each key's limits from now on."""
        self._gateways = max(1, told.gateways)
        for key, limits in self._keys.items():
            limits.share = told.shares.get(key, 1.0 / self._gateways)

    def apply(self, snapshot: GatewaySnapshot) -> None:
        """Forget keys that are gone."""
        known = {key.sha256 for key in snapshot.keys}
        for gone in self._keys.keys() - known:
            if not self._keys[gone].open:
                del self._keys[gone]


_FIELDS = {
    "requests_per_minute": "requests_per_minute",
    "tokens_per_minute": "tokens_per_minute",
    "concurrent_streams": "streams",
}
_WORDS = {
    "requests_per_minute": "requests a minute",
    "tokens_per_minute": "tokens a minute",
    "concurrent_streams": "requests at once",
}


def _headers(limits: KeyLimits) -> Headers:
    """As OpenAI names them."""
    headers: Headers = []
    for name, (rate, left, seconds) in limits.remaining().items():
        for what, value in (
            ("limit", str(rate)),
            ("remaining", str(left)),
            ("reset", f"{round(seconds * _MILLISECONDS)}ms"),
        ):
            headers.append((f"x-ratelimit-{what}-{name}".encode(), value.encode()))
    return headers
