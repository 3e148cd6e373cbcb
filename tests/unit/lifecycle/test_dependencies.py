"""What the end of a job means for those that wait for it."""

from __future__ import annotations

import pytest

from quarterdeck.lifecycle.dependencies import judge_dependency
from quarterdeck.lifecycle.job import JOB, NOT_NEEDED


@pytest.mark.parametrize(
    ("condition", "succeeded", "failed", "cancelled"),
    [
        ("success", "met", "failed", "failed"),
        ("failure", "not_needed", "met", "not_needed"),
        ("any", "met", "met", "met"),
    ],
)
def test_each_end_means_one_thing(
    condition: str, succeeded: str, failed: str, cancelled: str
) -> None:
    assert judge_dependency(condition, "succeeded", "Succeeded") == succeeded
    assert judge_dependency(condition, "failed", "Failed") == failed
    assert judge_dependency(condition, "cancelled", "Cancelled") == cancelled


@pytest.mark.parametrize("condition", ["success", "failure", "any"])
def test_whatever_has_not_ended_is_waited_for(condition: str) -> None:
    for phase in JOB.phases - JOB.final:
        assert judge_dependency(condition, phase, "") == "waiting"


def test_having_nothing_to_do_is_handed_on() -> None:
    assert judge_dependency("success", "cancelled", NOT_NEEDED) == "not_needed"
    assert judge_dependency("any", "cancelled", NOT_NEEDED) == "met"
