"""The recipe's numbers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.specs.training import Parallelism, Training
from quarterdeck_workers.training.recipe import (
    Recipe,
    make_recipe,
    micro_batch_size,
    peak_learning_rate,
    sample_indices,
    steps_of,
)


def recipe(data: int = 1, **training: object) -> Recipe:
    spec = Training.model_validate({"steps": 100, "global_batch_size": 16, **training})
    return make_recipe(spec, Parallelism(data=data), parameters=6_738_415_616, dataset_tokens=0)


def test_llama_7b_defaults() -> None:
    spec = Training(tokens=1_000_000_000_000, sequence_length=2048, global_batch_size=2048)
    made = make_recipe(spec, Parallelism(), parameters=6_738_415_616, dataset_tokens=0)
    assert made.steps == math.ceil(1e12 / (2048 * 2048))
    assert (made.learning_rate, made.min_learning_rate) == (3e-4, pytest.approx(3e-5))
    assert (made.betas, made.weight_decay, made.clip) == ((0.9, 0.95), 0.1, 1.0)
    assert made.warmup_steps == 2000


def test_llama_7b_takes_four_million_tokens_per_step() -> None:
    spec = Training(tokens=1_000_000_000_000, sequence_length=2048)
    made = make_recipe(spec, Parallelism(data=8), parameters=6_738_415_616, dataset_tokens=0)
    assert made.tokens_at(1) == 2**22
    assert made.global_batch_size == 8 * made.micro_batches * made.micro_batch_size == 2048
    assert made.steps == math.ceil(1e12 / 2**22)


@pytest.mark.parametrize(
    ("parameters", "rate"),
    [
        (124_439_808, 6e-4),
        (350_000_000, 3e-4),
        (760_000_000, 2.5e-4),
        (1_300_000_000, 2e-4),
        (2_700_000_000, 1.6e-4),
        (13_016_000_000, 3e-4),
        (65_286_000_000, 1.5e-4),
    ],
)
def test_peak_rates_are_the_papers(parameters: int, rate: float) -> None:
    assert peak_learning_rate(parameters) == rate


def test_cosine_warms_up_and_ends_at_a_tenth() -> None:
    made = recipe(learning_rate=1.0, warmup_steps=10)
    assert made.learning_rate_at(1) == pytest.approx(0.1)
    assert made.learning_rate_at(10) == 1.0
    assert made.learning_rate_at(55) == pytest.approx(0.55)
    assert made.learning_rate_at(100) == pytest.approx(0.1)


def test_linear_and_constant() -> None:
    linear = recipe(learning_rate=1.0, warmup_steps=0, lr_schedule="linear")
    assert linear.learning_rate_at(50) == pytest.approx(0.55)
    constant = recipe(learning_rate=1.0, warmup_steps=5, lr_schedule="constant")
    assert constant.learning_rate_at(3) == pytest.approx(0.6)
    assert constant.learning_rate_at(99) == 1.0


def test_short_trainings_warm_up_for_a_tenth() -> None:
    assert recipe().warmup_steps == 10
    assert recipe(steps=1_000_000).warmup_steps == 2000


def test_steps_are_counted_from_one() -> None:
    with pytest.raises(ValueError, match="counted from 1"):
        recipe().learning_rate_at(0)


@given(st.integers(0, 50), st.integers(51, 200), st.sampled_from(["cosine", "linear", "constant"]))
def test_rates_never_leave_their_bounds(warmup: int, steps: int, schedule: str) -> None:
    made = recipe(steps=steps, warmup_steps=warmup, learning_rate=1.0, lr_schedule=schedule)
    rates = [made.learning_rate_at(step) for step in range(1, steps + 1)]
    falling = rates[warmup:]
    assert all(0 < rate <= 1.0 + 1e-12 for rate in rates)
    assert falling == sorted(falling, reverse=True)
    assert min(falling) >= 0.1 - 1e-12


def test_amount_by_tokens_and_passes() -> None:
    common = {"sequence_length": 8, "global_batch_size": 4}
    assert steps_of(Training.model_validate({"tokens": 100, **common}), 0) == 4
    assert steps_of(Training.model_validate({"passes": 2.5, **common}), 100) == 7


@pytest.mark.parametrize(
    ("layout", "batch", "expected"),
    [
        ({}, 64, 8),
        ({"data": 2}, 6, 1),
        ({"pipeline": 2}, 32, 4),
        ({"data": 2, "pipeline": 2}, 32, 2),
        ({"pipeline": 4}, 8, 1),
    ],
)
def test_micro_batches_follow_the_planner(
    layout: dict[str, int], batch: int, expected: int
) -> None:
    spec = Training(steps=1, global_batch_size=batch)
    assert micro_batch_size(spec, Parallelism.model_validate(layout)) == expected


def test_batches_that_cannot_be_dealt_out_name_the_field() -> None:
    with pytest.raises(ValueError, match=r"global_batch_size 10 .* data: 4.* multiple of 4"):
        micro_batch_size(Training(steps=1, global_batch_size=10), Parallelism(data=4))
    with pytest.raises(ValueError, match="micro_batch_size 3 does not divide the 8"):
        micro_batch_size(
            Training(steps=1, global_batch_size=16, micro_batch_size=3), Parallelism(data=2)
        )


RAMP = {"start": 8, "increment": 8, "samples": 64}


def test_the_rate_falls_with_the_samples_of_a_ramp() -> None:
    made = recipe(batch_ramp=RAMP, global_batch_size=24, learning_rate=1.0, warmup_steps=2,
                  lr_schedule="linear", min_learning_rate_share=0, steps=11)  # fmt: skip
    batches = [8, 8, 8, 8, 16, 16, 24, 24, 24, 24, 24]
    assert [made.batches.size_at(step) for step in range(1, 12)] == batches
    for step in range(2, 12):
        left = sum(batches[step:]) / sum(batches[2:])
        assert made.learning_rate_at(step) == pytest.approx(left)


def test_tokens_and_passes_count_the_ramp() -> None:
    common = {"sequence_length": 8, "global_batch_size": 24, "batch_ramp": RAMP}
    assert steps_of(Training.model_validate({"tokens": 8 * 65, **common}), 0) == 7
    assert steps_of(Training.model_validate({"passes": 2, **common}), 4 * 63) == 5


def test_micro_batches_divide_every_batch_of_a_ramp() -> None:
    spec = Training.model_validate({"steps": 1, "global_batch_size": 32, "batch_ramp": RAMP})
    assert micro_batch_size(spec, Parallelism(data=4)) == 2
    with pytest.raises(ValueError, match=r"batch of 8 .* = 16; choose .* multiples of 16"):
        micro_batch_size(spec, Parallelism(data=16))


@given(st.sampled_from([1, 2, 4, 8]), st.integers(1, 9), st.integers(0, 3))
def test_every_layout_reads_the_same_samples_in_a_ramp(data: int, step: int, passed: int) -> None:
    made = recipe(data=data, batch_ramp=RAMP, global_batch_size=24)
    read = [
        index
        for micro in range(made.micro_batches_at(step))
        for replica in range(data)
        for index in sample_indices(made, step=step, micro_batch=micro, replica=replica,
                                    first=passed)
    ]  # fmt: skip
    start = passed + made.batches.samples_through(step - 1)
    assert sorted(read) == list(range(start, start + made.batches.size_at(step)))


@given(st.sampled_from([1, 2, 4, 8]), st.integers(1, 5), st.integers(0, 3))
def test_every_layout_reads_the_same_samples(data: int, step: int, passed: int) -> None:
    made = recipe(data=data)
    read = [
        index
        for micro in range(made.micro_batches)
        for replica in range(data)
        for index in sample_indices(
            made, step=step, micro_batch=micro, replica=replica, first=passed
        )
    ]
    start = passed + (step - 1) * 16
    assert sorted(read) == list(range(start, start + 16))
