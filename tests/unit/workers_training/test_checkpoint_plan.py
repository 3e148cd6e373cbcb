"""When checkpoints are due."""

from __future__ import annotations

from math import sqrt

from quarterdeck.specs.common import Checkpoints
from quarterdeck_workers.training.checkpoint_plan import CheckpointPlan


def test_every_n_steps() -> None:
    plan = CheckpointPlan(Checkpoints(every=5), None, start=0)
    assert [step for step in range(1, 16) if plan.due(step)] == [5, 10, 15]


def test_every_n_steps_keeps_its_grid_after_a_resume() -> None:
    plan = CheckpointPlan(Checkpoints(every=5), None, start=7)
    assert [step for step in range(8, 16) if plan.due(step)] == [10, 15]


def test_auto_measures_first_and_then_follows_young_and_daly() -> None:
    plan = CheckpointPlan(Checkpoints(every="auto"), mean_time_to_failure=3600.0, start=0)
    assert next(step for step in range(1, 12) if plan.due(step)) == 10
    plan.saved(10, save_seconds=2.0, step_seconds=0.5)
    interval = round(sqrt(2 * 2.0 * 3600.0) / 0.5)
    assert plan.interval == interval == 240
    assert not plan.due(249)
    assert plan.due(250)


def test_a_failed_save_is_not_tried_again_at_once() -> None:
    plan = CheckpointPlan(Checkpoints(every="auto"), None, start=0)
    plan.saved(10, save_seconds=0.0, step_seconds=0.5)
    assert not plan.due(11)
    assert plan.due(20)
