"""What a gateway measures (base units), by service, revision and replica.

Labels come from the snapshot, never from what clients send, and the series of a replica end with
it: their number is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from quarterdeck.gateway.access_log import Record, Step
from quarterdeck.gateway.histograms import Count, Counts, Histogram, Series

_SECONDS = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
)  # fmt: skip
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
_TOKENS = (1, 4, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
_SERVICE = ("project", "service")
_REPLICA = (*_SERVICE, "revision", "replica")
_STEP = (*_SERVICE, "step", "step_service")


@dataclass
class _Series:
    """One replica's series, looked up once."""

    labels: tuple[str, ...]
    seconds: Series
    first_byte: Series
    per_token: Series
    tokens_in: Series
    tokens_out: Series
    tokens_cached: Series
    statuses: dict[int, Count] = field(default_factory=dict)


class GatewayMetrics:
    """A gateway's metrics in a registry of their own."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self._series: dict[str, _Series] = {}
        self._requests = Counts(
            "quarterdeck_gateway_requests",
            "Answered inference requests (499: the client left); no replica: none took it",
            [*_REPLICA, "status"], registry,
        )  # fmt: skip
        self.refused = Counter(
            "quarterdeck_gateway_refused_requests_total",
            "Requests refused before a service was known, by status", ["status"],
            registry=registry,
        )  # fmt: skip
        self._in_flight = Gauge(
            "quarterdeck_gateway_in_flight_requests", "Inference requests under way",
            registry=registry,
        )  # fmt: skip
        self.waiting = Gauge(
            "quarterdeck_gateway_waiting_requests", "Requests that wait for a place", _SERVICE,
            registry=registry,
        )  # fmt: skip
        self._waited = Histogram(
            "quarterdeck_gateway_waiting_seconds", "How long requests waited for a place",
            _SERVICE, _SECONDS, registry,
        )  # fmt: skip
        self.retries = Counter(
            "quarterdeck_gateway_retries_total", "Tries on another replica after the first one",
            _SERVICE, registry=registry,
        )  # fmt: skip
        self.fallbacks = Counter(
            "quarterdeck_gateway_fallbacks_total", "Requests that the fallback service answered",
            _SERVICE, registry=registry,
        )  # fmt: skip
        self.mirrored = Counter(
            "quarterdeck_gateway_mirrored_requests_total",
            "Requests copied to another service, or not for want of room", [*_SERVICE, "outcome"],
            registry=registry,
        )  # fmt: skip
        self._steps = Counter(
            "quarterdeck_gateway_chain_steps_total", "Steps of chains, by what became of them",
            [*_STEP, "outcome"], registry=registry,
        )  # fmt: skip
        self._step_seconds = Histogram(
            "quarterdeck_gateway_chain_step_seconds",
            "What each step of a chain took, the last one to the end of its answer",
            _STEP, _SECONDS, registry,
        )  # fmt: skip
        self.limited = Counter(
            "quarterdeck_gateway_limited_requests_total", "Requests beyond a limit of their key",
            ["limit"], registry=registry,
        )  # fmt: skip
        self.broken = Counter(
            "quarterdeck_gateway_broken_answers_total",
            "Answers that broke off after their first byte", _REPLICA, registry=registry,
        )  # fmt: skip
        self._seconds = self._by_replica(
            "request_seconds", "From a request's arrival to its answer's end", _SECONDS
        )
        self._first_byte = self._by_replica(
            "time_to_first_byte_seconds", "From a request's arrival to its answer's first byte",
            _SECONDS,
        )  # fmt: skip
        self._per_token = self._by_replica(
            "time_per_output_token_seconds", "Between two tokens of a stream, on average",
            _TOKEN_SECONDS,
        )  # fmt: skip
        self._tokens_in = self._by_replica("prompt_tokens", "Tokens of prompts", _TOKENS)
        self._tokens_out = self._by_replica("output_tokens", "Tokens of answers", _TOKENS)
        self._tokens_cached = self._by_replica(
            "cached_prompt_tokens", "Tokens of prompts that the engine had cached, where it tells",
            (0, *_TOKENS),
        )  # fmt: skip
        self.ejections = Counter(
            "quarterdeck_gateway_ejections_total",
            "Replicas taken out of traffic for a while because their answers failed",
            [*_SERVICE, "reason"], registry=registry,
        )  # fmt: skip
        self.snapshot_failures = Gauge(
            "quarterdeck_gateway_snapshot_failed_polls",
            "Polls of the api's snapshot that failed in a row; its last one is in use",
            registry=registry,
        )  # fmt: skip

    def _by_replica(self, name: str, words: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"quarterdeck_gateway_{name}", words, _REPLICA, buckets, self.registry)

    def watch_in_flight(self, count: Callable[[], int]) -> None:
        """Whom to ask how many requests are under way."""
        self._in_flight.set_function(count)

    def ejected(self, project: str, service: str, run_id: str, reason: str) -> None:
        """Count an ejection."""
        self.ejections.labels(project, service, reason).inc()

    def ended(self, record: Record) -> None:
        """Count a request that belonged to a service."""
        series = self._of(record)
        status = series.statuses.get(record.status)
        if status is None:
            status = self._requests.labels(*series.labels, str(record.status))
            series.statuses[record.status] = status
        status.value += 1
        series.seconds.observe(record.seconds)
        if record.waited > 0:
            self._waited.labels(record.project, record.service).observe(record.waited)
        if record.first_byte is None or record.status >= 400:
            return
        series.first_byte.observe(record.first_byte)
        if record.tokens_in:
            series.tokens_in.observe(record.tokens_in)
        if record.tokens_out:
            series.tokens_out.observe(record.tokens_out)
        if record.tokens_cached is not None:
            series.tokens_cached.observe(record.tokens_cached)
        if record.stream and record.tokens_out > 1:
            generating = record.seconds - record.first_byte
            series.per_token.observe(generating / (record.tokens_out - 1))

    def stepped(self, project: str, chain: str, step: Step) -> None:
        """Count one step of a chain, and its request to a service."""
        labels = (project, chain, step.role, step.service)
        self._steps.labels(*labels, step.outcome).inc()
        self._step_seconds.labels(*labels).observe(step.record.seconds)
        self.ended(step.record)

    def _of(self, record: Record) -> _Series:
        known = self._series.get(record.replica) if record.replica else None
        if known is not None:
            return known
        labels = (record.project, record.service, str(record.revision or ""), record.replica)
        made = _Series(
            labels,
            self._seconds.labels(*labels),
            self._first_byte.labels(*labels),
            self._per_token.labels(*labels),
            self._tokens_in.labels(*labels),
            self._tokens_out.labels(*labels),
            self._tokens_cached.labels(*labels),
        )
        if record.replica:
            self._series[record.replica] = made
        return made

    def forget_others(self, replicas: Iterable[str]) -> None:
        """End the series of replicas that are not among these."""
        for gone in self._series.keys() - set(replicas):
            series = self._series.pop(gone)
            for status in series.statuses:
                self._requests.remove(*series.labels, str(status))
            for histogram in (
                self._seconds, self._first_byte, self._per_token, self._tokens_in,
                self._tokens_out, self._tokens_cached,
            ):  # fmt: skip
                histogram.remove(*series.labels)

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)
