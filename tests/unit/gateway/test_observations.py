"""What a gateway counts: by revision, each try, 5xx and broken answers, never 4xx."""

from __future__ import annotations

from typing import Any

from quarterdeck.gateway.access_log import Record
from quarterdeck.gateway.observations import Tally
from quarterdeck.specs.gateway_snapshot import EngineEndpoint, GatewaySnapshot, ServiceRoute


def tally() -> Tally:
    endpoints = [
        EngineEndpoint(run_id=f"r{number}", url="u", ready=True, revision=number)
        for number in (1, 2)
    ]
    route = ServiceRoute(name="s", project="p", model_version=None, endpoints=endpoints)
    made = Tally()
    made.apply(GatewaySnapshot(version="1", services=[route], keys=[]))
    return made


def record(*replicas: str, status: int = 200, **fields: Any) -> Record:
    return Record("id", "/v1/completions", status=status, replicas=list(replicas), **fields)


def taken(of: Tally, flying: int = 0) -> dict[int, tuple[int, int]]:
    found = of.take(lambda run: flying, lambda project, service: 0)
    return {one.revision: (one.requests, one.errors) for one in found}


def test_a_retry_after_no_room_is_no_error_of_the_revision() -> None:
    of = tally()
    of.observe(record("r1", "r2", overloaded=["r1"]))
    of.observe(record("r1", "r2"))
    assert taken(of) == {1: (2, 1), 2: (2, 0)}


def test_only_the_engines_own_errors_count() -> None:
    of = tally()
    for status in (200, 400, 404, 429, 500, 503):
        of.observe(record("r1", status=status))
    of.observe(record("r1", error="the replica broke off", first_byte=0.1))
    of.observe(record("r1", status=499))
    assert taken(of) == {1: (7, 3)}


def test_a_retry_does_not_hide_the_replica_that_failed() -> None:
    of = tally()
    of.observe(record("r2", "r1"))
    assert taken(of) == {1: (1, 0), 2: (1, 1)}


def test_first_tokens_go_to_their_buckets_and_only_those_of_streams() -> None:
    of = tally()
    of.observe(record("r1", stream=True, first_byte=0.05, tokens_out=7))
    of.observe(record("r1", stream=True, first_byte=999.0))
    of.observe(record("r1", first_byte=3.0))
    (one,) = of.take(lambda run: 0, lambda project, service: 0)
    assert one.ttft == {2: 1, 19: 1} and one.tokens_out == 7
    assert one.ttft_seconds == 999.05


def test_what_is_idle_is_told_of_once_and_strangers_never() -> None:
    of = tally()
    of.observe(record("gone", status=500))
    of.observe(Record("id", "/v1/completions", status=503))
    assert taken(of) == {}
    assert taken(of, flying=1) == {1: (0, 0), 2: (0, 0)}
    assert taken(of) == {1: (0, 0), 2: (0, 0)}
    assert taken(of) == {}
