"""What a gateway measures (base units)."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
)  # fmt: skip


class GatewayMetrics:
    """A gateway's metrics in a registry of their own. Labels come from the snapshot, never from
    what clients send: their number is bounded."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "quarterdeck_gateway_requests_total",
            "Answered inference requests by service and status (499: the client left)",
            ["project", "service", "status"],
            registry=self.registry,
        )
        self.refused = Counter(
            "quarterdeck_gateway_refused_requests_total",
            "Requests refused before a service was known, by status",
            ["status"],
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "quarterdeck_gateway_in_flight_requests",
            "Inference requests under way",
            registry=self.registry,
        )
        self.retries = Counter(
            "quarterdeck_gateway_retries_total",
            "Tries on another replica after the first one",
            ["project", "service"],
            registry=self.registry,
        )
        self.broken = Counter(
            "quarterdeck_gateway_broken_answers_total",
            "Answers that broke off after their first byte",
            ["project", "service"],
            registry=self.registry,
        )
        self.first_byte = Histogram(
            "quarterdeck_gateway_time_to_first_byte_seconds",
            "From a request's arrival to its answer's first byte",
            ["project", "service"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.snapshot_failures = Gauge(
            "quarterdeck_gateway_snapshot_failed_polls",
            "Polls of the api's snapshot that failed in a row",
            registry=self.registry,
        )

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)
