"""Runs of tiny models that several tests look at from different sides."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import pytest

from quarterdeck_workers.training.gang import Gang, Observer, run_gang
from quarterdeck_workers.training.workshop import GPT2, LLAMA, Workshop

CUBE = {"data": 2, "tensor": 2, "pipeline": 2}
RAMP = {"start": 4, "increment": 4, "samples": 48}
"""Four steps of 4 sequences, two of 8, two of 12, then 16."""


class Trainings:
    """Runs orders of a workshop; `shared` runs are made once for all tests."""

    shared_orders: dict[str, dict[str, Any]] = {
        "one": {"checkpoints": {"every": 6}},
        "cube": {"parallelism": CUBE, "checkpoints": {"every": 6}},
        "six": {"steps": 6},
        "gpt2": {"architecture": GPT2},
        "ramp": {"batch_ramp": RAMP, "checkpoints": {"every": 5}},
    }

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workshop = Workshop(folder)
        self._shared = cache(self._run_shared)

    def run(self, name: str, *, observer: Observer | None = None, **order: Any) -> Gang:
        layout = order.get("parallelism", {})
        ranks = prod(layout.get(axis, 1) for axis in ("data", "tensor", "pipeline"))
        made = self.workshop.order(name, **order)
        workdir = self.folder / "work" / made.run_id
        return run_gang(made, ranks, workdir, observer=observer)

    def shared(self, name: str) -> Gang:
        return self._shared(name)

    def _run_shared(self, name: str) -> Gang:
        gang = self.run(name, **self.shared_orders[name])
        assert gang.failures == []
        return gang


@pytest.fixture(scope="session")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Trainings:
    return Trainings(tmp_path_factory.mktemp("trainings"))


@pytest.fixture
def difference() -> Callable[[Gang, Gang], float]:
    """The largest difference of two runs' losses over the steps that both made."""

    def largest(first: Gang, second: Gang) -> float:
        a, b = first.metric("loss"), second.metric("loss")
        assert a.keys() & b.keys(), "the runs share no step"
        return max(abs(a[step] - b[step]) for step in a.keys() & b.keys())

    return largest


__all__ = ["GPT2", "LLAMA"]
