"""Whole plans: what fits, what does not and why, and what would help."""

from __future__ import annotations

import pytest

from quarterdeck.planner.hardware import builtin_catalogue, cpu_slot
from quarterdeck.planner.inference import plan_inference
from quarterdeck.planner.plan import Plan, describe, plan_pretrain
from quarterdeck.planner.remedies import Remedy
from quarterdeck.specs.presets import load_preset
from quarterdeck.specs.training import Parallelism, Training

H100 = builtin_catalogue().find("H100")
A100 = builtin_catalogue().find("A100-80G")
SLOT = cpu_slot(8 * 10**9, 2, 10)
TINY = Training(steps=200, sequence_length=128, global_batch_size=16)
LARGE = Training(tokens=300 * 10**9, sequence_length=2048, global_batch_size=1536)


def test_the_demo_on_declared_slots() -> None:
    plan = plan_pretrain(
        load_preset("llama-tiny"),
        TINY,
        accelerator=SLOT,
        parallelism=Parallelism(data=2, tensor=2, pipeline=2),
        vocab_size=8192,
    )
    assert plan.fits
    assert plan.precision == "fp32"
    assert plan.ranks == 8
    assert plan.layout is not None
    assert plan.layout.parallelism == Parallelism(data=2, tensor=2, pipeline=2)
    assert plan.message.startswith("data 2 × tensor 2 × pipeline 2, ZeRO-1 fits: ")
    assert plan.training.tokens == 200 * 16 * 128
    assert plan.training.steps == 200
    assert plan.remedies == []
    assert any("uneven pipeline stages" in note for note in plan.notes)
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


def test_auto_takes_the_best_layout_of_the_ranks() -> None:
    plan = plan_pretrain(load_preset("llama-3-8b"), LARGE, accelerator=H100, ranks=16)
    assert plan.fits
    assert plan.layout == plan.layouts[0]
    assert plan.ranks == 16
    assert 1 < len(plan.layouts) <= 10
    assert plan.rejected
    assert plan.training.seconds == plan.layout.seconds
    assert plan.training.cost == pytest.approx(plan.training.accelerator_hours * 6.88)


def test_auto_without_ranks_takes_the_fewest_that_fit() -> None:
    plan = plan_pretrain(load_preset("llama-3-8b"), LARGE, accelerator=H100)
    assert plan.fits
    fewer = plan_pretrain(load_preset("llama-3-8b"), LARGE, accelerator=H100, ranks=plan.ranks // 2)
    assert not fewer.fits


def test_nothing_fits_says_why_and_what_would_help() -> None:
    plan = plan_pretrain(load_preset("llama-3-70b"), LARGE, accelerator=H100, ranks=8)
    assert not plan.fits
    assert plan.layout is None
    assert plan.layouts == []
    assert plan.message.startswith("no layout of 8 ranks fits: ")
    assert "needs least and still needs" in plan.message
    order = ["recompute", "zero", "offload", "lora", "qlora", "smaller_batch", "more_ranks"]
    names = [remedy.name for remedy in plan.remedies]
    assert names == sorted(names, key=order.index)
    by_name = {remedy.name: remedy for remedy in plan.remedies}
    assert by_name["qlora"].fits
    assert by_name["recompute"].fields == {"training": {"activation_checkpointing": "full"}}
    more = by_name["more_ranks"].fields["ranks"]
    helped = Training(**{**LARGE.model_dump(), "activation_checkpointing": "full"})
    again = plan_pretrain(load_preset("llama-3-70b"), helped, accelerator=H100, ranks=more)
    assert again.fits


def _remedy(plan: Plan, name: str, **fields: object) -> Remedy:
    return next(
        remedy
        for remedy in plan.remedies
        if remedy.name == name and fields.items() <= {**remedy.fields}.items()
    )


def test_remedies_tell_the_truth() -> None:
    """What a remedy promises is what planning with it gives."""
    arguments = {"accelerator": H100, "parallelism": Parallelism(data=8)}
    training = Training(
        tokens=10**9, sequence_length=4096, global_batch_size=64, micro_batch_size=2
    )
    llama = load_preset("llama-3-8b")
    plan = plan_pretrain(llama, training, **arguments)
    assert not plan.fits
    for stage in (2, 3):
        promised = _remedy(plan, "zero", parallelism={"zero": stage})
        arguments["parallelism"] = Parallelism(data=8, zero=stage)
        with_it = plan_pretrain(llama, training, **arguments)
        assert with_it.layout is not None
        assert promised.memory == with_it.layout.memory.total
        assert promised.fits == with_it.fits
    arguments["parallelism"] = Parallelism(data=8)
    for name, changes in (
        ("recompute", {"activation_checkpointing": "full"}),
        ("smaller_batch", {"micro_batch_size": 1}),
    ):
        promised = _remedy(plan, name)
        assert promised.fields == {"training": changes}
        changed = training.model_copy(update=changes)
        with_it = plan_pretrain(llama, changed, **arguments)
        assert with_it.layout is not None
        assert promised.memory == with_it.layout.memory.total
        assert promised.memory < plan.layout.memory.total
    assert _remedy(plan, "zero", parallelism={"zero": 3}).fits_with_cheaper
    promised = _remedy(plan, "offload")
    assert promised.fields == {"parallelism": {"data": 8, "offload": "optimizer"}}
    arguments["parallelism"] = Parallelism(**promised.fields["parallelism"])
    with_it = plan_pretrain(llama, training, **arguments)
    assert with_it.layout is not None and plan.layout is not None
    memory = with_it.layout.memory
    assert (
        promised.memory == memory.total == plan.layout.memory.total - plan.layout.memory.optimizer
    )
    assert (memory.optimizer, plan.layout.memory.host) == (0, 0)
    # The fp32 copy, the moments and the gradients of an eighth of the parameters.
    held = plan.layout.memory.weights / 2
    assert memory.host == pytest.approx((12 + 4) * held / 8)
    assert any(note.startswith("offload: optimizer needs ") for note in with_it.notes)
    offloaded = plan_pretrain(llama, training, **arguments)
    assert "offload" not in {remedy.name for remedy in offloaded.remedies}


def test_offload_on_a_cpu_frees_nothing() -> None:
    """Its memory is the host's already."""
    layouts = [
        plan_pretrain(
            load_preset("llama-tiny"), TINY, accelerator=SLOT, vocab_size=8192,
            parallelism=Parallelism(data=2, offload=offload),
        ).layout
        for offload in ("none", "optimizer")
    ]  # fmt: skip
    assert layouts[0] is not None and layouts[1] is not None
    assert layouts[0].memory == layouts[1].memory
    assert layouts[0].memory.optimizer > 0


def test_offload_is_not_proposed_for_pipelines() -> None:
    plan = plan_pretrain(
        load_preset("llama-3-70b"), LARGE, accelerator=H100, parallelism=Parallelism(pipeline=8)
    )
    assert not plan.fits
    assert {remedy.name for remedy in plan.remedies} >= {"recompute", "more_ranks"}
    assert "offload" not in {remedy.name for remedy in plan.remedies}


def test_an_impossible_layout_is_not_planned_but_explained() -> None:
    plan = plan_pretrain(
        load_preset("llama-tiny"),
        TINY,
        accelerator=SLOT,
        parallelism=Parallelism(tensor=3),
        vocab_size=8192,
    )
    assert not plan.fits
    assert plan.layout is None
    assert plan.message.endswith("tensor: 3 does not divide num_attention_heads 4")
    assert plan.rejected[0].rule == "heads"
    assert plan.remedies == []


def test_no_possible_layout_at_all() -> None:
    odd = Training(steps=1, sequence_length=128, global_batch_size=1)
    plan = plan_pretrain(load_preset("llama-tiny"), odd, accelerator=SLOT, ranks=7, vocab_size=8192)
    assert not plan.fits
    assert plan.message.startswith("no layout of 7 ranks is possible: ")
    assert "7 is more than the 4 layers" in plan.message


def test_what_is_not_known_yet_is_said() -> None:
    tiny, training = load_preset("llama-tiny"), Training(passes=1, sequence_length=128)
    plan = plan_pretrain(tiny, training, accelerator=SLOT, ranks=1)
    assert plan.fits
    assert plan.vocab_size == 32_000
    assert any("vocabulary not known" in note for note in plan.notes)
    assert any("no duration and no cost" in note for note in plan.notes)
    assert plan.training.seconds is None
    assert plan.lifetime is None
    known = plan_pretrain(tiny, training, accelerator=SLOT, ranks=1, vocab_size=8192, tokens=10**6)
    assert known.training.steps == -(-(10**6) // (64 * 128))
    assert known.training.seconds is not None
    assert known.notes == []


def test_lifetime_of_a_plan() -> None:
    plan = plan_pretrain(load_preset("llama-3-8b"), LARGE, accelerator=H100, ranks=16)
    assert plan.lifetime is not None
    assert plan.lifetime.equal_at_served_tokens == 3 * LARGE.tokens
    assert plan.lifetime.flops_then == pytest.approx(2 * plan.lifetime.training_flops)


def test_mfu_of_finished_runs_replaces_the_assumption() -> None:
    half, whole = (
        plan_pretrain(
            load_preset("smollm2-135m"), LARGE, accelerator=A100, ranks=1, mfu=mfu
        ).training.seconds
        for mfu in (0.25, 0.5)
    )
    assert half == pytest.approx(2 * whole)
    with pytest.raises(ValueError, match=r"mfu 1\.5 is not a share"):
        plan_pretrain(load_preset("gpt2"), LARGE, accelerator=A100, mfu=1.5)


def test_contradictions_and_unknown_precisions_are_refused() -> None:
    with pytest.raises(ValueError, match="ranks 4 is not data × tensor × pipeline = 2"):
        plan_pretrain(
            load_preset("gpt2"), LARGE, accelerator=A100, parallelism=Parallelism(data=2), ranks=4
        )
    v100 = builtin_catalogue().find("V100")
    with pytest.raises(ValueError, match="V100-32G has no peak for precision bf16"):
        plan_pretrain(load_preset("gpt2"), LARGE, accelerator=v100)


def test_zero_0_is_planned_as_it_runs() -> None:
    layouts = [Parallelism(data=2, pipeline=2, zero=zero) for zero in (0, 1)]
    asked, runs = (
        plan_pretrain(
            load_preset("llama-tiny"), TINY, accelerator=SLOT, parallelism=layout, vocab_size=8192
        )
        for layout in layouts
    )
    assert any("zero: 0 runs as ZeRO-1" in note for note in asked.notes)
    assert not any("zero: 0" in note for note in runs.notes)
    assert asked.layout is not None
    assert runs.layout is not None
    assert asked.layout.memory == runs.layout.memory
    assert asked.layout.parallelism.zero == 0


def test_describe() -> None:
    layout = Parallelism(data=2, tensor=4, sequence=True, zero=2)
    assert describe(layout) == "data 2 × tensor 4 × pipeline 1, ZeRO-2, sequence parallel"


def test_decoding_8b_on_h100_is_bound_by_memory() -> None:
    plan = plan_inference(load_preset("llama-3-8b"), accelerator=H100, prompt_tokens=1)
    assert plan.fits
    assert round(plan.ridge) == 295
    assert plan.decode_bound == "memory"
    assert 200 < plan.tokens_per_second_single <= 209
    assert plan.weights == 2 * 8_030_261_248
    assert plan.kv_cache_per_token == 128 * 1024


def test_many_sequences_share_the_reading_of_weights() -> None:
    one, many = (
        plan_inference(load_preset("llama-3-8b"), accelerator=H100, concurrency=count)
        for count in (1, 64)
    )
    assert many.tokens_per_second > 20 * one.tokens_per_second
    assert many.kv_cache == 64 * one.kv_cache
    assert many.requests_per_second == pytest.approx(64 / many.latency_seconds)
    assert many.cost_per_million_tokens < one.cost_per_million_tokens / 20


def test_prefill_is_bound_by_compute_only_when_long() -> None:
    short, long = (
        plan_inference(load_preset("llama-3-8b"), accelerator=H100, prompt_tokens=tokens)
        for tokens in (16, 4096)
    )
    assert (short.prefill_bound, long.prefill_bound) == ("memory", "compute")
    assert long.prefill_seconds == pytest.approx(
        2 * (8_030_261_248 - 128256 * 4096) * 4096 / 989.4e12
    )


def test_inference_that_does_not_fit_says_what_would() -> None:
    large = load_preset("llama-3-70b")
    plan = plan_inference(large, accelerator=H100)
    assert not plan.fits
    assert "raise tensor" in plan.message
    split = plan_inference(large, accelerator=H100, tensor=4)
    assert split.fits
    assert split.weights == plan.weights / 4
    crowded = plan_inference(large, accelerator=H100, tensor=4, concurrency=10**4)
    assert not crowded.fits
    assert f"at most {split.max_concurrency} of 10000 sequences" in crowded.message
    fitting = plan_inference(large, accelerator=H100, tensor=4, concurrency=split.max_concurrency)
    assert fitting.fits


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tensor": 3}, "tensor: 3 does not divide num_attention_heads 32"),
        ({"pipeline": 33}, "33 is more than the 32 layers"),
        ({"concurrency": 0}, "concurrency 0 must be at least 1"),
        ({"precision": "fp3"}, "'fp3' is not one of"),
    ],
)
def test_impossible_inference_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        plan_inference(load_preset("llama-3-8b"), accelerator=H100, **changes)
