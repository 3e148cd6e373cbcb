"""What a replica's reports become in its run's beats."""

from __future__ import annotations

from typing import Any

from quarterdeck.specs.beats import Endpoint
from quarterdeck.specs.protocol import RankPlacement
from quarterdeck_workers.supervisor.failures import first_failure
from quarterdeck_workers.supervisor.ledger import Ledger
from quarterdeck_workers.supervisor.spool import Spool

CLOCK = 1_700_000_000.0
URL = "http://127.0.0.1:4711"


def hear(ledger: Ledger, now: float, type_: str, **content: Any) -> None:
    ledger.apply(0, {"type": type_, "at": CLOCK + now, **content}, now)


def loading() -> Ledger:
    ledger = Ledger("service", [RankPlacement(rank=0, node_id="n")], Spool(), 0.0)
    hear(ledger, 1, "pid", pid=7)
    hear(ledger, 2, "phase", message="loading weights 1.2/3.0 GiB, 310 MB/s, about 6 s left")
    return ledger


def report(ledger: Ledger, now: float, **more: Any) -> None:
    hear(ledger, now, "endpoint", url=URL, probed=True, models=["chat"], in_flight=1, **more)


def test_the_start_s_progress_is_the_beat_s_message() -> None:
    ledger = loading()
    assert ledger.phase(2) == "loading"
    assert ledger.status("loading", 2)["message"].endswith("about 6 s left")


def test_an_unhealthy_replica_says_so_at_once_and_comes_back() -> None:
    ledger = loading()
    report(ledger, 3)
    assert ledger.phase(3) == "ready"
    ledger.urgent = False
    report(ledger, 4, healthy=False, running=2.0, kv_usage=0.5)
    assert ledger.phase(4) == "unhealthy" and ledger.urgent
    ledger.urgent = False
    report(ledger, 5, healthy=False)
    assert not ledger.urgent  # no news
    report(ledger, 6, healthy=True)
    assert ledger.phase(6) == "ready" and ledger.urgent
    assert ledger.phase(27) == "unhealthy"  # heard nothing for 20 s


def test_a_rank_that_tells_no_health_is_healthy_and_unknown_fields_are_ignored() -> None:
    ledger = loading()
    report(ledger, 3, something_newer=[1])
    assert ledger.endpoint == Endpoint(url=URL, probed=True, models=["chat"], in_flight=1)
    assert ledger.phase(3) == "ready"


def test_a_failure_keeps_its_typed_reason() -> None:
    ledger = loading()
    hear(
        ledger, 3, "failure", message="the engine exited", traceback="", blame="memory",
        reason="OutOfMemory",
    )  # fmt: skip
    hear(ledger, 3.1, "exit", code=1)
    first = first_failure(ledger.failures)
    assert first is not None and first.report().reason == "OutOfMemory"
    hear(ledger, 4, "failure", message="from an older rank", traceback="", blame="memory")
    assert ledger.failures[-1].report().reason == ""
