"""What gateways are told: services, their replicas, and the keys that may ask them."""

from __future__ import annotations

from quarterdeck.specs.base import Message
from quarterdeck.specs.resources import Access
from quarterdeck.specs.routing import RoutingSettings


class EngineEndpoint(Message):
    """One replica as gateways see it."""

    run_id: str
    url: str
    ready: bool
    draining: bool = False
    weight: int = 1
    revision: int = 0


class TrafficShare(Message):
    """A revision's share of the requests, 0 to 1."""

    revision: int
    weight: float


class ServedAlias(Message):
    """Another model name that leads here; see `specs.serving.Alias`."""

    name: str
    weight: int = 1
    headers: dict[str, str] = {}


class Shadow(Message):
    """Where a share of the requests is copied to."""

    service: str
    share: float


class RouteStep(Message):
    """One step of a chain; see `specs.chains`. Times are seconds. A gateway that does not know the
    role refuses the request: what it skipped could be a guard."""

    role: str
    service: str
    timeout: float = 10.0
    on_failure: str = "fail"
    looks_at: str = "last_message"
    refuse_when: str = ""
    pass_when: str | None = None
    store: str | None = None
    top: int = 5
    template: str = "{documents}"
    documents_in: str = "system"
    max_characters: int = 12_000


class ServiceRoute(Message):
    """A service as gateways see it. Times are seconds; `concurrency` is for each replica."""

    name: str
    project: str
    model_version: str | None
    endpoints: list[EngineEndpoint]
    routing: RoutingSettings = RoutingSettings()
    aliases: list[ServedAlias] = []
    fallback: str | None = None
    """A service of the same project that answers when this one cannot."""
    mirror: Shadow | None = None
    concurrency: int = 32
    max_waiting: int = 256
    max_wait: float = 30.0
    wakes: bool = False
    """It may be at zero replicas: a request wakes it, and waits for it up to `max_wake`."""
    max_wake: float = 300.0
    per_try: float = 300.0
    between_tokens: float = 60.0
    total: float = 3600.0
    chain: list[RouteStep] = []
    """What is asked in its stead, in order; empty: it has replicas of its own."""
    traffic: list[TrafficShare] = []
    """Shares while a rollout is on trial; empty: all ready replicas alike."""


class KeyDigest(Message):
    """A key and its limits; None: without."""

    sha256: str
    name: str
    project: str | None
    access: Access
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    streams: int | None = None


class GatewaySnapshot(Message):
    """GET /api/v1/gateway/snapshot?after=VERSION&wait=20: all that a gateway needs."""

    version: str
    services: list[ServiceRoute]
    keys: list[KeyDigest]
