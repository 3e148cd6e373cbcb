"""Golden durations, utilisation, money, bubbles, lifetimes, scaling laws and intervals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.planner import checkpointing, scaling_laws, time_cost

DAY = 86400
A100 = 312e12


def test_llama_65b_from_its_published_rate() -> None:
    seconds = time_cost.seconds_at_rate(1.4e12, 2048 * 380)
    assert round(seconds / DAY, 1) == 20.8
    hours = time_cost.accelerator_hours(seconds, 2048)
    assert round(hours) == 1_023_392
    assert hours == pytest.approx(1_022_362, rel=0.002)  # published
    assert f"{2048 * 21 * DAY * 380:.3e}" == "1.412e+12"


def test_llama_65b_mfu() -> None:
    per_token = 6 * 65.286e9
    assert round(per_token * 380 / 1e12, 1) == 148.9
    mfu = time_cost.model_flops_utilization(380, per_token, 1, A100)
    assert round(100 * mfu, 1) == 47.7


def test_time_at_an_mfu_is_the_inverse_of_measuring_it() -> None:
    seconds = time_cost.training_seconds(1.4e12, 6 * 65.286e9, 2048, A100, 0.477)
    rate = 1.4e12 / seconds
    again = time_cost.model_flops_utilization(rate, 6 * 65.286e9, 2048, A100)
    assert again == pytest.approx(0.477)


def test_13b_on_1_4t_tokens_costs_a_million_at_list_price() -> None:
    seconds = time_cost.training_seconds(1.4e12, 6 * 13e9, 1, A100, 0.5)
    hours = time_cost.accelerator_hours(seconds, 1)
    assert round(hours) == 194_444
    assert time_cost.cost(hours, 5.14) == pytest.approx(1e6, rel=0.001)


def test_calibration_takes_the_median() -> None:
    assert time_cost.calibrated_mfu([]) is None
    assert time_cost.calibrated_mfu([0.4, 0.05, 0.42]) == 0.4


@pytest.mark.parametrize(
    ("pipeline", "micro_batches", "percent"), [(8, 64, 9.9), (4, 1, 75.0), (4, 8, 27.3)]
)
def test_bubble(pipeline: int, micro_batches: int, percent: float) -> None:
    assert round(100 * time_cost.bubble_share(pipeline, micro_batches), 1) == percent


@given(p=st.integers(1, 64), m=st.integers(1, 512), v=st.integers(1, 8))
def test_bubble_is_a_share_that_interleaving_and_micro_batches_lower(
    p: int, m: int, v: int
) -> None:
    bubble = time_cost.bubble_share(p, m)
    assert 0 <= bubble < 1
    assert time_cost.bubble_share(p, m + 1) <= bubble
    assert time_cost.bubble_share(p, m, v) == bubble / v


def test_lifetime_shares_are_equal_after_three_times_the_tokens() -> None:
    n, d = 7e9, 1e12
    training = time_cost.lifetime_flops(n, d, 0)
    assert training == 6 * n * d
    assert time_cost.lifetime_flops(n, d, 3 * d) - training == training


def test_throughput_is_concurrency_divided_by_latency() -> None:
    assert time_cost.throughput(32, 4) == 8


def test_chinchilla() -> None:
    parameters, tokens = scaling_laws.chinchilla_optimal(5.76e23)
    assert round(parameters / 1e9) == 69
    assert round(tokens / 1e12, 2) == 1.39
    assert scaling_laws.training_flops(parameters, tokens) == pytest.approx(5.76e23)


def test_kaplan_mccandlish() -> None:
    assert round(scaling_laws.loss_from_parameters(175e9), 3) == 1.604
    assert round(scaling_laws.loss_from_tokens(3e11), 3) == 1.638


def test_checkpoint_interval() -> None:
    assert checkpointing.optimal_interval(50, 3600) == 600
    assert checkpointing.optimal_steps(50, 3600, 2.0) == 300
    assert checkpointing.optimal_steps(0.001, 1, 60) == 1
    assert checkpointing.gang_mean_time_to_failure(1000, 10) == 100
    with pytest.raises(ValueError, match="measure a save"):
        checkpointing.optimal_interval(0, 3600)
    with pytest.raises(ValueError, match="measure a step"):
        checkpointing.optimal_steps(1, 3600, 0)


@given(
    save=st.floats(0.01, 1e3),
    mttf=st.floats(1e3, 1e7),
    factor=st.floats(0.1, 10).filter(lambda x: abs(x - 1) > 1e-3),
)
def test_no_other_interval_loses_less(save: float, mttf: float, factor: float) -> None:
    best = checkpointing.optimal_interval(save, mttf)
    here = checkpointing.lost_share(best, save, mttf)
    assert checkpointing.lost_share(best * factor, save, mttf) > here
