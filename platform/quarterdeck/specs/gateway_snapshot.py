"""What gateways are told: services, their replicas, and the keys that may ask them."""

from __future__ import annotations

from quarterdeck.specs.base import Message
from quarterdeck.specs.resources import Access


class EngineEndpoint(Message):
    """One replica as gateways see it."""

    run_id: str
    url: str
    ready: bool
    draining: bool = False
    weight: int = 1


class ServiceRoute(Message):
    name: str
    project: str
    model_version: str | None
    endpoints: list[EngineEndpoint]


class KeyDigest(Message):
    sha256: str
    name: str
    project: str | None
    access: Access


class GatewaySnapshot(Message):
    """GET /api/v1/gateway/snapshot?after=VERSION&wait=20: all that a gateway needs."""

    version: str
    services: list[ServiceRoute]
    keys: list[KeyDigest]
