"""How many requests may be sent again: a share of what is under way, so that a service in
trouble is not buried under its own retries (Envoy's retry budget).

A replica that died takes all of its requests with it, of four replicas a quarter, which is more
than the share. They ask nothing that the service had not to do before, so the share is not for
them; the bound on tries is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RetryBudget:
    """`share` of active requests may be retries, and always `minimum`; a request is sent at most
    `attempts` times."""

    share: float = 0.2
    minimum: int = 3
    attempts: int = 3

    def allows(
        self, *, attempt: int, active: int, retrying: int, blamed: int = 0, lost: bool = False
    ) -> bool:
        """Whether a request that failed its `attempt`-th try (from 1) may be sent again, while
        `active` requests are under way and `retrying` of them are on a further try; `blamed` of
        its tries ended with one of `ONCE`, and `lost` says that the last ended with its replica."""
        if attempt >= self.attempts or blamed > 1:
            return False
        if lost:
            return True
        return retrying < max(self.minimum, int(self.share * active))


RETRYABLE_STATUSES = frozenset({429, 500, 502, 503, 504})
"""Answers that say "not me, not now": nothing was generated."""
ONCE = frozenset({500})
"""Of these the ones that may be the request's own fault: one other replica is asked, no more, so
that a request that brings engines down does not bring down all of them."""
