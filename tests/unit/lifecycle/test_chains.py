"""When a chain is ready, and what it says when it is not."""

from __future__ import annotations

import pytest

from quarterdeck.lifecycle.chains import StepFacts, judge_chain

GUARD = StepFacts("guard", "g", "ready", "Ready", ready=1, wanted=1)
MODEL = StepFacts("model", "m", "ready", "Ready", ready=2, wanted=2)


@pytest.mark.parametrize(
    ("step", "takes"),
    [
        (MODEL, True),
        (StepFacts("model", "m", "degraded", "ReplicasMissing", ready=1, wanted=2), True),
        (StepFacts("model", "m", "deploying", "RollingOut", ready=1, wanted=2), True),
        (StepFacts("model", "m", "deploying", "Deploying", wanted=2), False),
        (StepFacts("model", "m", "idle", "Asleep", wanted=1, wakes=True), True),
        (StepFacts("model", "m", "idle", "Idle", wanted=0, wakes=True), False),
        (StepFacts("model", "m", "idle", "Idle", wanted=0), False),
        (StepFacts("model", "m", "ready", "Ready", chain=True), False),
        (StepFacts("model", "m"), False),
    ],
)
def test_which_steps_take_requests(step: StepFacts, takes: bool) -> None:
    assert step.takes_requests is takes
    assert judge_chain([GUARD, step]).ready is takes


def test_the_first_that_is_missing_is_named_before_others() -> None:
    down = StepFacts("guard", "g", "degraded", "CrashLoop", ready=0, wanted=1)
    state = judge_chain([down, StepFacts("model", "m")])
    assert (state.reason, state.ready) == ("StepMissing", False)
    assert state.message == "step 2 (model): service/m does not exist (and 1 more)"
    state = judge_chain([down, MODEL])
    assert state.reason == "StepUnready"
    assert state.message == (
        "step 1 (guard): service/g is degraded (CrashLoop), 0 of 1 replicas ready"
    )
    assert judge_chain([GUARD, MODEL]).message == "2 steps ready"
