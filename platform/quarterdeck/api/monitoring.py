"""Counters of the api for Prometheus, and counts of what the database holds."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quarterdeck.specs.accelerator_share import WHOLE
from quarterdeck.store import fleet_queries, goodput, job_queries, service_queries
from quarterdeck.store.sessions import Database

PREFIX = "/api/v1"
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Monitoring:
    """The metrics of one app, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "quarterdeck_api_requests", "Requests answered.", ["method", "route", "status"],
            registry=self.registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "quarterdeck_api_answer_seconds", "From a request to the start of its answer.",
            ["method", "route"], buckets=_BUCKETS, registry=self.registry,
        )  # fmt: skip
        self.streams = Gauge(
            "quarterdeck_api_streams", "Streams and long polls that are open.",
            registry=self.registry,
        )  # fmt: skip
        self.jobs = Gauge(
            "quarterdeck_jobs", "Jobs that have not ended.", ["phase"], registry=self.registry
        )
        self.services = Gauge(
            "quarterdeck_services", "Services that are not stopped.", ["phase"],
            registry=self.registry,
        )  # fmt: skip
        self.slots = Gauge(
            "quarterdeck_slots", "Slots of living nodes.", ["cluster", "state"],
            registry=self.registry,
        )  # fmt: skip

        self.rank_seconds = Gauge(
            "quarterdeck_rank_seconds",
            "Rank-seconds of all runs on record, each in one account; their sum is what was held.",
            ["cluster", "account"], registry=self.registry,
        )  # fmt: skip

    def render(self, database: Database, streams: int) -> bytes:
        """The text that Prometheus scrapes."""
        with database.read() as session:
            jobs = job_queries.count_by_phase(session)
            services = service_queries.count_by_phase(session)
            clusters = fleet_queries.capacity_by_cluster(session)
            accounts = goodput.accounts_by_cluster(session)
        self.streams.set(streams)
        for gauge, counts in ((self.jobs, jobs), (self.services, services)):
            gauge.clear()
            for phase, count in counts.items():
                gauge.labels(phase).set(count)
        self.slots.clear()
        for cluster, capacity in clusters.items():
            self.slots.labels(cluster, "free").set(capacity.free)
            self.slots.labels(cluster, "all").set(capacity.slots)
            self.slots.labels(cluster, "shared").set(capacity.shared)
            self.slots.labels(cluster, "shared_free").set(capacity.parts_free / WHOLE)
        self.rank_seconds.clear()
        for cluster, seconds in accounts.items():
            for account, value in seconds.model_dump().items():
                self.rank_seconds.labels(cluster, account).set(value)
        return generate_latest(self.registry)


def route_of(scope: Scope) -> str:
    """The template of the address that was asked for, e.g. `/api/v1/jobs/{id}`."""
    route = getattr(scope.get("route"), "path", "none")
    inside = scope["path"].startswith(PREFIX) and not route.startswith(PREFIX)
    return f"{PREFIX}{route}" if inside and route != "none" else route


class CountRequests:
    """Counts answers by route template (never by address: names would be without bound)."""

    def __init__(self, app: ASGIApp, monitoring: Monitoring) -> None:
        self.app = app
        self.monitoring = monitoring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = time.perf_counter()

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = route_of(scope)
                method = scope["method"] if route != "none" else "none"
                self.monitoring.requests.labels(method, route, str(message["status"])).inc()
                self.monitoring.seconds.labels(method, route).observe(time.perf_counter() - begun)
            await send(message)

        await self.app(scope, receive, send_counted)
