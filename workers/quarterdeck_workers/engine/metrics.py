"""What an engine measures of itself, as Prometheus metrics (base units)."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
)  # fmt: skip


class EngineMetrics:
    """One engine's metrics in a registry of their own. The methods are safe in any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.in_flight = Gauge(
            "quarterdeck_engine_in_flight_requests",
            "Requests accepted and not yet answered",
            registry=self.registry,
        )
        self.running = Gauge(
            "quarterdeck_engine_running_sequences",
            "Sequences in the decoding batch",
            registry=self.registry,
        )
        self.waiting = Gauge(
            "quarterdeck_engine_waiting_sequences",
            "Sequences waiting for a place in the batch",
            registry=self.registry,
        )
        self.cache_usage = Gauge(
            "quarterdeck_engine_kv_cache_usage_ratio",
            "Share of the key-value cache's token places that are held, 0 to 1",
            registry=self.registry,
        )
        self.prompt_tokens = Counter(
            "quarterdeck_engine_prompt_tokens_total",
            "Prompt tokens computed",
            registry=self.registry,
        )
        self.generated_tokens = Counter(
            "quarterdeck_engine_generated_tokens_total",
            "Tokens generated",
            registry=self.registry,
        )
        self.embeddings = Counter(
            "quarterdeck_engine_embeddings_total",
            "Inputs whose embedding was computed",
            registry=self.registry,
        )
        self.first_token = Histogram(
            "quarterdeck_engine_time_to_first_token_seconds",
            "From submission of a sequence to its first token",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.next_token = Histogram(
            "quarterdeck_engine_time_per_output_token_seconds",
            "Between two tokens of a sequence",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.requests = Counter(
            "quarterdeck_engine_requests_total",
            "Answered requests by outcome",
            ["outcome"],
            registry=self.registry,
        )

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)
