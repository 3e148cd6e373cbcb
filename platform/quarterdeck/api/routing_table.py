"""The snapshot that gateways run on."""

from __future__ import annotations

import hashlib
from typing import Any

from quarterdeck.lifecycle.rollouts import from_json
from quarterdeck.specs.chains import AnyStep, steps_of
from quarterdeck.specs.gateway_snapshot import (
    EngineEndpoint,
    GatewaySnapshot,
    KeyDigest,
    RouteStep,
    ServiceRoute,
    TrafficShare,
)
from quarterdeck.specs.routing import RoutingSettings
from quarterdeck.specs.serving import Admission, Timeouts
from quarterdeck.store.gateway_queries import Routed, routed_services
from quarterdeck.store.key_queries import usable_keys
from quarterdeck.store.sessions import Session
from quarterdeck.store.tables import KeyRow, RunRow, ServiceRow

_LEAVING = ("draining", "stopping")
BATCHES = {"builtin": 16, "vllm": 256}
"""Sequences that an engine computes at once, unless it is told otherwise."""
_OTHER_BATCH = 64
_AHEAD = 2
"""A replica gets so many times what it computes at once: its own queue is never empty, and most
of what waits does so where priorities are known."""


def snapshot(session: Session) -> GatewaySnapshot:
    """Services with their endpoints and every valid key; `version` is a digest of the content."""
    found = GatewaySnapshot(
        version="",
        services=_routes(routed_services(session)),
        keys=[_key(row) for row in usable_keys(session)],
    )
    digest = hashlib.sha256(found.model_dump_json().encode()).hexdigest()
    return found.model_copy(update={"version": digest[:32]})


def _routes(services: list[Routed]) -> list[ServiceRoute]:
    """One route for each name: a service that is being removed shares it with its successor."""
    routes: dict[tuple[str, str], ServiceRoute] = {}
    for routed in services:
        service = routed.service
        removed = service.desired == "stop"
        weights = (service.spec.get("routing") or {}).get("weights") or {}
        endpoints = [
            _endpoint(run, removed, weights.get(run.cluster, 1)) for run in routed.replicas
        ]
        known = routes.get((service.project, service.name))
        routes[(service.project, service.name)] = ServiceRoute(
            name=service.name,
            project=service.project,
            model_version=service.model_version,
            endpoints=[*(known.endpoints if known else ()), *endpoints],
            **_manners(service.spec),
            traffic=_traffic(service),
        )
    return list(routes.values())


def _manners(spec: dict[str, Any]) -> dict[str, Any]:
    """How the service treats its clients, by the names of `ServiceRoute`."""
    admission = Admission.model_validate(spec.get("admission") or {})
    timeouts = Timeouts.model_validate(spec.get("timeouts") or {})
    return {
        "routing": RoutingSettings.model_validate(spec.get("routing") or {}),
        "aliases": spec.get("aliases") or [],
        "fallback": spec.get("fallback"),
        "mirror": spec.get("mirror"),
        "chain": [_step(step) for step in steps_of(spec)],
        "wakes": spec.get("idle_after") is not None,
        "concurrency": admission.concurrency or _AHEAD * _batch(spec),
        **admission.model_dump(exclude={"concurrency"}),
        **timeouts.model_dump(),
    }


def _step(step: AnyStep) -> RouteStep:
    told = step.model_dump(mode="json")
    return RouteStep.model_validate({**told, "role": step.role, "service": step.service})


def _batch(spec: dict[str, Any]) -> int:
    """How many sequences one replica computes at once."""
    arguments = spec.get("engine_args") or {}
    asked = arguments.get("max_batch_size") or arguments.get("max_num_seqs")
    return int(asked) if asked else BATCHES.get(str(spec.get("engine")), _OTHER_BATCH)


def _endpoint(run: RunRow, removed: bool, weight: int) -> EngineEndpoint:
    endpoint = run.endpoint or {}
    draining = removed or run.phase in _LEAVING or run.order != "continue"
    ready = run.phase == "ready" and bool(endpoint.get("probed")) and not draining
    return EngineEndpoint(
        run_id=run.id, url=endpoint.get("url", ""), ready=ready, draining=draining,
        weight=weight, revision=run.revision or 0,
    )  # fmt: skip


def _traffic(service: ServiceRow) -> list[TrafficShare]:
    if not service.rollout or service.desired == "stop":
        return []
    shares = from_json(service.rollout).traffic
    return [TrafficShare(revision=number, weight=round(share, 4)) for number, share in
            sorted(shares.items())]  # fmt: skip


def _key(row: KeyRow) -> KeyDigest:
    return KeyDigest.model_validate({name: getattr(row, name) for name in KeyDigest.model_fields})
