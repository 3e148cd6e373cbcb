"""Rests after failures, the slow start, latency's average, and the retry budget."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from quarterdeck.routing.latency import PeakEwma, observe
from quarterdeck.routing.outliers import Outcome, Outliers, OutlierSettings
from quarterdeck.routing.retries import RETRYABLE_STATUSES, RetryBudget
from quarterdeck.routing.slow_start import ramp

SETTINGS = OutlierSettings()


def outliers_of(count: int, **values: float) -> Outliers:
    outliers = Outliers(OutlierSettings(**values))  # type: ignore[arg-type]
    outliers.keep(frozenset(f"r{i}" for i in range(count)))
    return outliers


def fail(outliers: Outliers, run: str, now: float, times: int = 5) -> list[tuple[str, str]]:
    return [one for _ in range(times) for one in outliers.record(run, "server_error", now)]


def test_an_unreachable_replica_rests_at_once_and_longer_each_time() -> None:
    outliers = outliers_of(3)
    outliers.record("r0", "unreachable", 10.0)
    assert outliers.rest_of("r0", 11.9) == "unreachable" and outliers.rest_of("r0", 12.0) == ""
    outliers.record("r0", "unreachable", 12.0)
    outliers.record("r0", "unreachable", 13.0)  # under way since before: tells nothing new
    assert outliers.rest_of("r0", 15.9) == "unreachable" and outliers.rest_of("r0", 16.0) == ""
    outliers.record("r0", "unreachable", 16.0)
    outliers.record("r0", "answered", 17.0)
    assert outliers.rest_of("r0", 17.0) == ""
    outliers.record("r0", "unreachable", 18.0)
    assert outliers.rest_of("r0", 20.0) == ""


def test_unreachable_replicas_all_rest() -> None:
    outliers = outliers_of(4)
    for run in ("r0", "r1", "r2", "r3"):
        outliers.record(run, "unreachable", 0.0)
    assert all(outliers.rest_of(run, 1.0) == "unreachable" for run in ("r0", "r1", "r2", "r3"))


def test_five_server_errors_in_a_row_eject_and_each_time_for_longer() -> None:
    outliers = outliers_of(3)
    assert fail(outliers, "r0", 0.0, 4) == []
    outliers.record("r0", "answered", 0.0)
    assert fail(outliers, "r0", 0.0, 4) == []
    assert fail(outliers, "r0", 1.0, 1) == [("r0", "consecutive_errors")]
    assert outliers.rest_of("r0", 30.9) == "ejected" and outliers.rest_of("r0", 31.0) == ""
    outliers.record("r0", "answered", 2.0)  # a stream that had begun before
    assert outliers.rest_of("r0", 3.0) == "ejected"
    fail(outliers, "r0", 31.0)
    assert outliers.rest_of("r0", 90.9) == "ejected" and outliers.rest_of("r0", 91.0) == ""


def test_quiet_intervals_take_ejections_back() -> None:
    outliers = outliers_of(3)
    fail(outliers, "r0", 0.0)
    fail(outliers, "r0", 30.0)
    outliers.record("r1", "answered", 500.0)
    fail(outliers, "r0", 501.0)
    assert outliers.rest_of("r0", 530.9) == "ejected" and outliers.rest_of("r0", 531.0) == ""


def test_a_tenth_may_be_ejected_and_always_one() -> None:
    few = outliers_of(4)
    assert fail(few, "r0", 0.0) and fail(few, "r1", 0.0) == [("r1", "failing")]
    assert fail(few, "r1", 30.0)
    many = outliers_of(30)
    reasons = [fail(many, f"r{i}", 0.0)[0][1] for i in range(5)]
    assert reasons == ["consecutive_errors"] * 3 + ["failing"] * 2


def test_who_fails_while_no_more_may_be_ejected_rests_shortly_and_longer_each_time() -> None:
    outliers = outliers_of(4)
    fail(outliers, "r0", 0.0)
    fail(outliers, "r1", 10.0, 4)
    assert outliers.rest_of("r1", 10.0) == ""
    fail(outliers, "r1", 10.0, 1)
    assert outliers.rest_of("r1", 11.9) == "failing" and outliers.rest_of("r1", 12.0) == ""
    fail(outliers, "r1", 12.0)
    assert outliers.rest_of("r1", 15.9) == "failing" and outliers.rest_of("r1", 16.0) == ""
    outliers.record("r1", "answered", 16.0)
    fail(outliers, "r1", 17.0)
    assert outliers.rest_of("r1", 18.9) == "failing" and outliers.rest_of("r1", 19.0) == ""
    assert fail(outliers, "r1", 30.0) == [("r1", "consecutive_errors")], "the first is back"


def test_half_of_the_replicas_never_rest_for_failing() -> None:
    three, four = outliers_of(3), outliers_of(4)
    for outliers, expected in ((three, ["ejected", ""]), (four, ["ejected", "failing"])):
        fail(outliers, "r0", 0.0)
        fail(outliers, "r1", 0.0)
        assert [outliers.rest_of(run, 1.0) for run in ("r0", "r1")] == expected
    fail(four, "r2", 0.0)
    assert four.rest_of("r2", 1.0) == ""
    assert fail(four, "r1", 2.0) == [("r1", "failing")]


def test_a_broken_connection_is_one_rest_however_many_there_were() -> None:
    outliers = outliers_of(4)
    fail(outliers, "r0", 0.0)
    now = 0.0
    for rest in (2.0, 4.0, 6.0, 8.0, 10.0, 12.0):
        outliers.record("r1", "unreachable", now)
        assert outliers.rest_of("r1", now + rest - 0.1) == "unreachable"
        assert outliers.rest_of("r1", now + rest) == ""
        now += rest


def test_the_one_whose_success_rate_stands_out_is_ejected() -> None:
    outliers = outliers_of(6)
    for run in range(6):
        for number in range(40):
            bad = run == 0 and number % 4 == 0
            outliers.record(f"r{run}", "server_error" if bad else "answered", 1.0)
    assert outliers.record("r1", "answered", 11.5) == [("r0", "success_rate")]
    assert outliers.rest_of("r0", 41.4) == "ejected"


def test_success_rates_of_few_replicas_or_requests_or_failures_say_nothing() -> None:
    for count, requests, every in ((4, 40, 4), (6, 19, 4), (6, 40, 11)):
        outliers = outliers_of(count)
        for run in range(count):
            for number in range(requests):
                bad = run == 0 and number % every == 0
                outliers.record(f"r{run}", "server_error" if bad else "answered", 1.0)
        assert outliers.record("r1", "answered", 11.5) == []


def test_replicas_that_are_gone_are_forgotten() -> None:
    outliers = outliers_of(3)
    fail(outliers, "r0", 0.0)
    outliers.keep(frozenset({"r1", "r2"}))
    assert outliers.rest_of("r0", 1.0) == "" and fail(outliers, "r0", 1.0) == []
    assert fail(outliers, "r1", 1.0)


steps = st.lists(
    st.tuples(
        st.sampled_from(["r0", "r1", "r2", "gone"]),
        st.sampled_from(["answered", "server_error", "unreachable"]),
        st.floats(0, 40),
    ),
    max_size=60,
)


@settings(max_examples=60)
@given(steps)
def test_rests_are_bounded_and_at_most_one_of_three_is_ejected(
    taken: list[tuple[str, Outcome, float]],
) -> None:
    outliers, now = outliers_of(3), 0.0
    for run, outcome, wait in taken:
        now += wait
        outliers.record(run, outcome, now)
        rests = [outliers.rest_of(f"r{i}", now) for i in range(3)]
        assert rests.count("ejected") <= 1
        assert outliers.rest_of("gone", now) == ""
        assert not any(outliers.rest_of(f"r{i}", now + SETTINGS.longest_rest) for i in range(3))


def test_a_new_replica_ramps_from_a_tenth_to_all() -> None:
    assert [ramp(100.0, now, 10.0) for now in (100.0, 100.5, 105.0, 110.0, 200.0)] == [
        0.1, 0.1, 0.5, 1.0, 1.0,
    ]  # fmt: skip
    assert ramp(100.0, 100.0, 0.0) == 1.0 and ramp(float("-inf"), 0.0, 10.0) == 1.0


@given(st.lists(st.tuples(st.floats(0.001, 100), st.floats(0, 60)), min_size=1))
def test_latency_believes_bad_news_at_once_and_stays_within_its_samples(
    samples: list[tuple[float, float]],
) -> None:
    average: PeakEwma | None = None
    now = 0.0
    for seconds, wait in samples:
        now += wait
        average = observe(average, seconds, now)
        assert average.at(now) >= seconds * (1 - 1e-9)
        assert average.at(now) <= max(sample for sample, _ in samples)
    assert average is not None and average.at(now + 100) < average.at(now) / 1000


@given(st.integers(0, 10_000), st.integers(0, 3000))
def test_the_budget_keeps_retries_a_share_of_the_traffic(active: int, retrying: int) -> None:
    budget = RetryBudget()
    allowed = budget.allows(attempt=1, active=active, retrying=retrying)
    assert allowed == (retrying < max(3, active // 5))
    assert not budget.allows(attempt=3, active=active, retrying=0)


def test_requests_of_a_replica_that_died_go_elsewhere_however_many_they_are() -> None:
    budget = RetryBudget()
    assert budget.allows(attempt=1, active=4, retrying=4, lost=True)
    assert not budget.allows(attempt=1, active=4, retrying=4)
    assert not budget.allows(attempt=3, active=4, retrying=0, lost=True)


def test_answers_of_a_model_are_never_retried() -> None:
    assert RETRYABLE_STATUSES.isdisjoint({200, 400, 401, 404, 501})


def test_a_request_that_may_be_at_fault_itself_meets_two_replicas_at_most() -> None:
    budget = RetryBudget()
    assert budget.allows(attempt=1, active=100, retrying=0, blamed=1)
    assert not budget.allows(attempt=2, active=100, retrying=0, blamed=2)
    # A replica that was not there says nothing of the request: it is asked of two others.
    assert budget.allows(attempt=2, active=100, retrying=0, blamed=1)
