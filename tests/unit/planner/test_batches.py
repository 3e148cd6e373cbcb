"""The global batch by the model's size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.planner.batches import batch_schedule, preset_batch_size, with_batch_size
from quarterdeck.planner.hardware import builtin_catalogue
from quarterdeck.planner.plan import plan_pretrain
from quarterdeck.specs.presets import load_preset
from quarterdeck.specs.training import BatchRamp, Parallelism, Training


@pytest.mark.parametrize(
    ("parameters", "length", "sequences"),
    [
        (10_000_000, 2048, 64),
        (124_439_808, 2048, 256),
        (760_000_000, 2048, 256),
        (1_300_000_000, 2048, 512),
        (2_700_000_000, 2048, 512),
        (6_000_000_000, 2048, 1024),
        (6_738_415_616, 2048, 2048),
        (65_286_000_000, 2048, 2048),
        (65_286_000_000, 4096, 1024),
        (6_738_415_616, 3000, 1024),
        (6_738_415_616, 2**23, 1),
    ],
)
def test_tokens_per_batch_are_the_papers(parameters: int, length: int, sequences: int) -> None:
    assert preset_batch_size(parameters, length) == sequences


def test_a_given_batch_is_kept() -> None:
    kept = Training(steps=1, global_batch_size=48)
    assert with_batch_size(kept, 7_000_000_000) == kept
    assert kept.batch == 48
    assert Training.model_validate({"steps": 1, "global_batch_size": "2k"}).batch == 2000
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        Training(steps=1, global_batch_size=0)


def test_an_unknown_batch_says_so() -> None:
    with pytest.raises(ValueError, match="global_batch_size"):
        _ = Training(steps=1).batch


def test_a_plan_uses_the_preset() -> None:
    h100 = builtin_catalogue().find("H100")
    assert h100 is not None
    training = Training(steps=10, sequence_length=4096)
    plan = plan_pretrain(load_preset("llama-3-8b"), training, accelerator=h100, ranks=64)
    assert plan.training.tokens_per_step == 2**22
    assert plan.training.tokens == 10 * 2**22
    assert plan.layout is not None
    done = plan.layout.parallelism.data * plan.layout.micro_batches * plan.layout.micro_batch_size
    assert done == 1024


def ramp(**numbers: int) -> BatchRamp:
    return BatchRamp.model_validate({"start": 4, "increment": 4, "samples": 48, **numbers})


def test_a_ramp_grows_in_equal_portions_of_samples() -> None:
    schedule = batch_schedule(16, ramp())
    sizes = [schedule.size_at(step) for step in range(1, 13)]
    assert sizes == [4, 4, 4, 4, 8, 8, 12, 12, 16, 16, 16, 16]
    assert schedule.samples_through(12) == sum(sizes)
    assert batch_schedule(16).size_at(1) == 16
    with pytest.raises(ValueError, match="counted from 1"):
        schedule.size_at(0)


@given(
    st.integers(1, 40), st.integers(1, 20), st.integers(1, 12), st.integers(1, 3000),
    st.integers(0, 4000),
)  # fmt: skip
def test_a_ramp_is_the_one_that_counts_samples_as_it_goes(
    start: int, increment: int, count: int, samples: int, seen: int
) -> None:
    """Megatron-LM looks at the samples consumed before each step; the schedule knows in advance."""
    final = start + count * increment
    schedule = batch_schedule(final, ramp(start=start, increment=increment, samples=samples))
    consumed, before, step = 0, 0, 0
    while consumed < seen:
        before, step = consumed, step + 1
        portions = consumed * count // samples
        size = start + portions * increment if consumed < samples else final
        assert schedule.size_at(step) == size
        consumed += size
        assert schedule.samples_through(step) == consumed
    assert schedule.steps_for(seen) == step
    assert schedule.steps_within(seen) == (step if consumed == seen else step - 1)
    assert before <= seen <= consumed


@pytest.mark.parametrize(
    ("numbers", "problem"),
    [
        ({"start": 16}, "start 16 is not less than global_batch_size 16"),
        ({"increment": 5}, "steps of 5 do not lead from 4 to global_batch_size 16"),
    ],
)
def test_a_ramp_that_does_not_arrive_is_refused(numbers: dict[str, int], problem: str) -> None:
    spec = {"start": 4, "increment": 4, "samples": "1k", **numbers}
    with pytest.raises(ValueError, match=problem):
        Training.model_validate({"steps": 1, "global_batch_size": 16, "batch_ramp": spec})


def test_a_ramp_towards_the_preset_is_checked_with_it() -> None:
    unsized = Training.model_validate(
        {"steps": 1, "batch_ramp": {"start": 10, "increment": 10, "samples": 1000}}
    )
    with pytest.raises(ValueError, match="lead from 10 to global_batch_size 64"):
        with_batch_size(unsized, 10_000_000)


def test_a_ramp_of_too_many_sizes_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1000"):
        batch_schedule(1_000_001, ramp(start=1, increment=1))


def test_a_plan_counts_the_ramps_steps_and_their_time() -> None:
    h100 = builtin_catalogue().find("H100")
    numbers = {"steps": 100, "sequence_length": 1024, "global_batch_size": 64}
    rising = {"start": 16, "increment": 16, "samples": 960}
    plain, ramped = (
        plan_pretrain(
            load_preset("llama-3-8b"), Training.model_validate({**numbers, **extra}),
            accelerator=h100, ranks=8,
        )
        for extra in ({}, {"batch_ramp": rising})
    )  # fmt: skip
    # 20, 10 and 7 steps of 16, 32 and 48 sequences, then 64.
    assert ramped.training.tokens == 1024 * (20 * 16 + 10 * 32 + 7 * 48 + 63 * 64)
    assert (plain.training.steps, ramped.training.steps) == (100, 100)
    assert plain.layout is not None and ramped.layout is not None
    assert ramped.layout.step_seconds <= plain.layout.step_seconds * 1.5
    assert ramped.layout.seconds is not None and plain.layout.seconds is not None
    assert ramped.layout.seconds < 0.95 * plain.layout.seconds


def test_a_ramp_that_the_ranks_cannot_share_names_the_remedy() -> None:
    training = Training.model_validate(
        {
            "steps": 10, "sequence_length": 128, "global_batch_size": 24,
            "batch_ramp": {"start": 6, "increment": 6, "samples": 96},
        }
    )  # fmt: skip
    plan = plan_pretrain(
        load_preset("llama-tiny"), training, accelerator=builtin_catalogue().find("H100"),
        parallelism=Parallelism(data=4),
    )  # fmt: skip
    assert not plan.fits
    assert plan.rejected[0].rule == "ramp"
    assert "data: 4 does not divide the ramp's batch of 6" in plan.message
    assert "multiples of 4" in plan.message
