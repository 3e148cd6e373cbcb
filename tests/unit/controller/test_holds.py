"""What a run's row means to the scheduler."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from quarterdeck.controller.requests import _hold
from quarterdeck.store.capacity import Holding

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def holding(**fields: Any) -> Holding:
    usual: dict[str, Any] = {
        "id": "run-1", "owner_type": "service", "owner_id": "svc-1", "owner_name": "chat",
        "project": "default", "epoch": 1, "cluster": "a", "phase": "ready", "quarantined": False,
        "stopping_for": None, "created_at": NOW, "claimed_at": None,
        "placements": [{"rank": 0, "node_id": "n1"}], "resources": None, "roles": None,
        "max_duration": None,
    }  # fmt: skip
    return Holding(**{**usual, **fields})


@pytest.mark.parametrize(
    ("fields", "service"),
    [
        ({}, "svc-1"),
        ({"phase": "loading"}, "svc-1"),
        ({"phase": "draining"}, ""),
        ({"phase": "stopping"}, ""),
        ({"quarantined": True}, ""),
        ({"owner_type": "job"}, ""),
    ],
)
def test_replicas_that_stay_keep_others_apart(fields: dict[str, Any], service: str) -> None:
    hold = _hold(holding(**fields))
    assert (hold.service, hold.slots) == (service, {"n1": 1})
