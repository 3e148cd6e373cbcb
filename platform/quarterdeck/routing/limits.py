"""Limits of a key: requests and tokens a minute, streams at once.

A token bucket (as in Envoy's local rate limit): it holds a minute's worth and fills evenly. What
a request will cost in tokens is guessed when it arrives and corrected when it has ended, so that
the bucket may go below zero and the key then waits until it is filled again. With several
gateways each has a share of the rate, so that together they give what the key may have.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil

_MINUTE = 60.0


@dataclass
class Bucket:
    """`level` of at most `rate` (per minute), as of `at` seconds."""

    rate: float
    level: float
    at: float

    def fill(self, now: float) -> None:
        """Let the time since the last look count."""
        self.level = min(self.rate, self.level + (now - self.at) * self.rate / _MINUTE)
        self.at = now

    def seconds_until(self, amount: float) -> float:
        """How long until it holds `amount` (of more than a minute's worth: until it is full)."""
        missing = min(amount, self.rate) - self.level
        return max(0.0, missing * _MINUTE / self.rate)


@dataclass(frozen=True)
class Refused:
    """Which limit is reached, and after how many whole seconds it makes sense to come again."""

    limit: str
    retry_after: int


@dataclass
class KeyLimits:
    """The state of one key in one gateway. None: no such limit. `share` of the rates, 0 to 1, is
    this gateway's."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    streams: int | None = None
    share: float = 1.0
    open: int = 0
    _requests: Bucket | None = field(default=None, repr=False)
    _tokens: Bucket | None = field(default=None, repr=False)

    def enter(self, tokens: int, now: float) -> Refused | None:
        """A request of about so many tokens arrives: None when it may go on, and then `leave`
        must follow."""
        self._requests = _bucket(self._requests, self.requests_per_minute, self.share, now)
        self._tokens = _bucket(self._tokens, self.tokens_per_minute, self.share, now)
        if self.streams is not None and self.open >= max(1, ceil(self.streams * self.share)):
            return Refused("concurrent_streams", 1)
        for name, bucket, amount in (
            ("requests_per_minute", self._requests, 1),
            ("tokens_per_minute", self._tokens, tokens),
        ):
            if bucket is not None and bucket.level < min(amount, bucket.rate):
                return Refused(name, max(1, ceil(bucket.seconds_until(amount))))
        if self._requests is not None:
            self._requests.level -= 1
        if self._tokens is not None:
            self._tokens.level -= tokens
        self.open += 1
        return None

    def leave(self, guessed: int, used: int, now: float) -> None:
        """The request has ended; it used so many tokens."""
        self.open -= 1
        if self._tokens is not None:
            self._tokens.fill(now)
            self._tokens.level += guessed - used

    def remaining(self) -> dict[str, tuple[int, int, float]]:
        """By limit: a minute's worth, what is left of it, seconds until it is full."""
        shown = {}
        for name, bucket in (("requests", self._requests), ("tokens", self._tokens)):
            if bucket is not None:
                left = max(0, int(bucket.level))
                shown[name] = (int(bucket.rate), left, bucket.seconds_until(bucket.rate))
        return shown


def _bucket(bucket: Bucket | None, limit: int | None, share: float, now: float) -> Bucket | None:
    if limit is None:
        return None
    rate = max(1.0, limit * share)
    if bucket is None:
        return Bucket(rate, rate, now)
    bucket.fill(now)
    if bucket.rate != rate:
        # The part that is used up stays used up.
        bucket.level *= rate / bucket.rate
        bucket.rate = rate
    return bucket
