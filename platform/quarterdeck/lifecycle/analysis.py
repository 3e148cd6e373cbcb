"""Whether a revision on trial is as good as its rollout demands. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from quarterdeck.specs.observations import TTFT_BUCKETS_S
from quarterdeck.specs.rollout import Analysis


@dataclass(frozen=True)
class Observed:
    """Requests that one revision answered. `ttft` counts first tokens by the index of their bucket
    in TTFT_BUCKETS_S; one more index holds those beyond the last."""

    requests: int = 0
    errors: int = 0
    ttft: Mapping[int, int] = field(default_factory=dict)

    @property
    def error_rate(self) -> float:
        return self.errors / self.requests if self.requests else 0.0


NOTHING = Observed()


def quantile(buckets: Mapping[int, int], share: float) -> float | None:
    """The `share` quantile in seconds, linear inside its bucket as Prometheus'
    histogram_quantile; beyond the last bound that bound. None: nothing was counted."""
    total = sum(buckets.values())
    if not total:
        return None
    rank, seen = share * total, 0
    for index in sorted(buckets):
        count = buckets[index]
        if count and seen + count >= rank:
            if index >= len(TTFT_BUCKETS_S):
                return TTFT_BUCKETS_S[-1]
            low = TTFT_BUCKETS_S[index - 1] if index else 0.0
            return low + (TTFT_BUCKETS_S[index] - low) * (rank - seen) / count
        seen += count
    return TTFT_BUCKETS_S[-1]


def judge(analysis: Analysis, observed: Observed) -> str:
    """Why the revision is worse than allowed; empty: it is not, or there is too little to say."""
    if observed.requests < analysis.min_requests:
        return ""
    if analysis.max_error_rate is not None and observed.error_rate > analysis.max_error_rate:
        bound = f"{100 * analysis.max_error_rate:.4g}%"
        return f"error rate {observed.error_rate:.1%} over {bound}, {observed.requests} requests"
    slow = quantile(observed.ttft, 0.95)
    if analysis.max_ttft_p95 is not None and slow is not None and slow > analysis.max_ttft_p95:
        return (
            f"ttft p95 {slow:.3g} s over {analysis.max_ttft_p95:g} s, {observed.requests} requests"
        )
    return ""


def fails(analysis: Analysis, results: Mapping[str, float]) -> str:
    """Which evaluation found too little or too much; empty: none did."""
    for bound in analysis.evaluations:
        found = results.get(bound.metric)
        if found is None:
            continue
        # NaN is within no bound.
        if bound.max is not None and not found <= bound.max:
            return f"evaluation: {bound.metric} {found:.4g} over {bound.max:g}"
        if bound.min is not None and not found >= bound.min:
            return f"evaluation: {bound.metric} {found:.4g} under {bound.min:g}"
    return ""


def unevaluated(analysis: Analysis, results: Mapping[str, float]) -> list[str]:
    """Metrics that no evaluation of the model version has found yet."""
    return [bound.metric for bound in analysis.evaluations if bound.metric not in results]
