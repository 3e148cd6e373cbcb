"""Outlier ejection and the retry budget."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.routing.outliers import Health, OutlierSettings, after
from quarterdeck.routing.retries import RETRYABLE_STATUSES, RetryBudget

SETTINGS = OutlierSettings()


def test_an_unreachable_replica_rests_at_once_and_longer_each_time() -> None:
    health = after(Health(), "unreachable", 10.0, SETTINGS)
    assert health.ejected(11.9) and not health.ejected(12.0)
    again = after(health, "unreachable", 12.0, SETTINGS)
    assert again.rests_until == 16.0
    assert after(again, "answered", 16.0, SETTINGS) == Health()


def test_failures_during_a_rest_do_not_prolong_it() -> None:
    health = after(Health(), "unreachable", 0.0, SETTINGS)
    assert after(health, "unreachable", 1.0, SETTINGS).rests_until == health.rests_until


def test_server_errors_need_five_in_a_row() -> None:
    health = Health()
    for _ in range(4):
        health = after(health, "server_error", 0.0, SETTINGS)
    assert not health.ejected(0.0)
    assert after(health, "server_error", 0.0, SETTINGS).rests_until == 30.0
    assert after(after(health, "answered", 0.0, SETTINGS), "server_error", 0.0, SETTINGS) == Health(
        errors=1
    )


@given(
    st.lists(
        st.tuples(st.sampled_from(["answered", "server_error", "unreachable"]), st.floats(0, 1000))
    )
)
def test_a_rest_is_bounded_and_an_answer_forgives(steps: list[tuple[str, float]]) -> None:
    health, now = Health(), 0.0
    for outcome, wait in steps:
        now += wait
        health = after(health, outcome, now, SETTINGS)  # type: ignore[arg-type]
        assert health.rests_until <= now + SETTINGS.longest_rest
        assert outcome != "answered" or health == Health()


@given(st.integers(0, 10_000), st.integers(0, 3000))
def test_the_budget_keeps_retries_a_share_of_the_traffic(active: int, retrying: int) -> None:
    budget = RetryBudget()
    allowed = budget.allows(attempt=1, active=active, retrying=retrying)
    assert allowed == (retrying < max(3, active // 5))
    assert not budget.allows(attempt=3, active=active, retrying=0)


def test_answers_of_a_model_are_never_retried() -> None:
    assert RETRYABLE_STATUSES.isdisjoint({200, 400, 401, 404, 500})
