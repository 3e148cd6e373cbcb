"""The line of a request is JSON whatever clients and replicas say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from quarterdeck.gateway.access_log import Record, Step, line

NASTY = 'a"b\\c\n\x00ü\ud800'


@pytest.mark.parametrize(
    "known",
    [
        {},
        {"model": NASTY, "key": NASTY, "service": NASTY, "project": NASTY, "error": NASTY},
        {"stream": True, "tries": 3, "fallback": True, "priority": -5, "waited": 0.25},
        {"tokens_in": 1, "tokens_out": 2, "tokens_cached": 3, "bytes_in": 4, "revision": 5},
        {"replicas": ["a", "b"], "overloaded": ["a"], "replica": "b", "first_byte": 0.5},
    ],
    ids=["nothing", "nasty", "treatment", "numbers", "replicas"],
)
def test_it_tells_what_is_known(known: dict[str, Any]) -> None:
    told = json.loads(line(Record("r-1", "/v1/x", status=200, seconds=1.5, **known), 1.25))
    assert told == {
        "at": "1970-01-01T00:00:01.250Z", "request_id": "r-1", "path": "/v1/x", "status": 200,
        "seconds": 1.5, **known,
    }  # fmt: skip


def test_steps_of_a_chain_are_told_and_explanations_are_not() -> None:
    step = Step("guard", "g", Record("r", "/p", status=200), outcome="passed")
    told = json.loads(line(Record("r", "/p", steps=[step], explanation=b"{}"), 0.0))
    assert [each["service"] for each in told["steps"]] == ["g"]
    assert "explanation" not in told and "replicas" not in told
