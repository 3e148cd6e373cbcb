"""What a controller tells of its loops."""

from __future__ import annotations

import json
import threading

from quarterdeck.controller.health import HANGS_AFTER_S, Health
from quarterdeck.controller.loop import _repeat
from quarterdeck.processes.health_server import answer


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def status(health: Health, path: str) -> tuple[int, str]:
    code, content, _ = answer(health, path)
    return code, json.loads(content).get("detail", "")


def test_it_is_ready_once_a_loop_has_turned() -> None:
    health = Health()
    assert status(health, "/healthz") == (200, "")
    assert status(health, "/readyz")[0] == 503
    health.begin("runs")
    assert status(health, "/readyz")[0] == 503
    health.end("runs", failures=0)
    assert status(health, "/readyz") == (200, "")


def test_it_is_unready_while_every_loop_fails_and_alive() -> None:
    health = Health()
    health.end("runs", failures=1)
    health.end("services", failures=0)
    assert status(health, "/readyz")[0] == 200, "one row that nobody foresaw stops one loop only"
    health.end("services", failures=3)
    assert status(health, "/readyz")[0] == 503
    assert status(health, "/healthz")[0] == 200, "a restart brings no database back"


def test_a_turn_that_does_not_end_hangs() -> None:
    clock = Clock()
    health = Health(clock)
    health.begin("retention")
    health.begin("runs")
    clock.now = HANGS_AFTER_S
    assert status(health, "/healthz") == (200, "")
    health.end("runs", failures=0)
    clock.now += 1
    assert status(health, "/healthz") == (503, "loops hang: retention")
    health.end("retention", failures=0)
    assert status(health, "/healthz") == (200, "")


def test_metrics_and_unknown_addresses() -> None:
    clock = Clock()
    health = Health(clock)
    health.end("runs", failures=2)
    health.begin("runs")
    clock.now = 7
    health.begin("admission")
    clock.now = 9
    health.end("admission", failures=0)
    clock.now = 7
    text = answer(health, "/metrics")[1].decode()
    assert 'quarterdeck_controller_turns_total{loop="runs",outcome="failed"} 1.0' in text
    assert 'quarterdeck_controller_failed_turns{loop="runs"} 2.0' in text
    assert 'quarterdeck_controller_turn_age_seconds{loop="runs"} 7.0' in text
    assert 'quarterdeck_controller_turn_seconds_total{loop="admission"} 2.0' in text
    assert answer(health, "/")[0] == 404


def test_loops_tell_of_every_turn() -> None:
    health, stop, turns = Health(), threading.Event(), []

    def tick() -> int:
        turns.append(len(turns))
        if len(turns) == 1:
            raise ValueError("a row that nobody foresaw")
        stop.set()
        return 0

    stop.wait = lambda timeout=None: stop.is_set()  # type: ignore[method-assign]
    _repeat("runs", tick, 0.0, stop, health)
    text = health.render().decode()
    assert 'outcome="failed"} 1.0' in text and 'outcome="done"} 1.0' in text
    assert 'quarterdeck_controller_failed_turns{loop="runs"} 0.0' in text
