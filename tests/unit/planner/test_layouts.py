"""Layout search: every division is either possible, or rejected with its reason."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quarterdeck.planner.estimate import Workload, estimate
from quarterdeck.planner.flops import training_flops_per_token
from quarterdeck.planner.hardware import builtin_catalogue, cpu_slot
from quarterdeck.planner.layouts import (
    broken_rule,
    candidates,
    evaluate,
    fewest_ranks,
    rank_key,
    search,
)
from quarterdeck.planner.time_cost import bubble_share
from quarterdeck.specs.presets import load_preset
from quarterdeck.specs.training import Parallelism, Sync


def workload(name: str = "llama-3-8b", **changes: object) -> Workload:
    architecture = load_preset(name)
    accelerator = builtin_catalogue().find("H100")
    made = Workload(
        architecture=architecture,
        vocab_size=architecture.vocab_size or 8192,
        sequence_length=2048,
        global_batch_size=64,
        micro_batch_size=1,
        precision="bf16",
        recompute="none",
        accelerator=accelerator,
        ranks_per_host=8,
        mfu=0.5,
        tokens=10**9,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


@given(ranks=st.integers(1, 256))
def test_candidates_are_every_division_once(ranks: int) -> None:
    found = list(candidates(ranks))
    assert all(layout.ranks == ranks for layout in found)
    assert len({layout.model_dump_json() for layout in found}) == len(found)
    divisions = {(c.data, c.tensor, c.pipeline) for c in found}
    assert len(divisions) == sum(
        1
        for t in range(1, ranks + 1)
        for p in range(1, ranks + 1)
        if ranks % t == 0 and (ranks // t) % p == 0
    )


@pytest.mark.parametrize(
    ("layout", "changes", "rule", "words"),
    [
        (Parallelism(tensor=16), {}, "host", "16 is more than the 8 ranks of a host"),
        (
            Parallelism(data=2, tensor=4),
            {"ranks_per_host": 6},
            "host",
            "does not divide the 6 ranks",
        ),
        (Parallelism(tensor=3), {}, "heads", "does not divide num_attention_heads 32"),
        (Parallelism(pipeline=33), {}, "layers", "33 is more than the 32 layers"),
        (Parallelism(pipeline=2, zero=0), {}, None, ""),
        (
            Parallelism(data=2, zero=2).model_copy(update={"pipeline": 2}),
            {},
            "zero",
            "use zero: 1",
        ),
        (Parallelism(data=3), {}, "batch", "data: 3 does not divide global_batch_size 64"),
        (
            Parallelism(data=32),
            {"micro_batch_size": 4},
            "batch",
            "data: 32 × micro_batch_size: 4 does not divide",
        ),
        (
            Parallelism(tensor=8, sequence=True),
            {"sequence_length": 1001},
            "sequence",
            "1001 divisible by tensor: 8",
        ),
        (
            Parallelism(),
            {"architecture": load_preset("gpt2")},
            "positions",
            "more than the 1024 learned positions",
        ),
        (
            Parallelism(data=4, tensor=3),
            {"architecture": load_preset("smollm2-135m"), "ranks_per_host": 6},
            None,
            "",
        ),
        (
            Parallelism(tensor=4),
            {
                "architecture": load_preset("llama-7b").model_copy(
                    update={"num_attention_heads": 24, "num_key_value_heads": 6, "head_dim": 128}
                )
            },
            "heads",
            "does not divide num_key_value_heads 6",
        ),
        (
            Parallelism(tensor=8),
            {
                "architecture": load_preset("llama-7b").model_copy(
                    update={"intermediate_size": 11004}
                )
            },
            "width",
            "does not divide the feed-forward width 11004",
        ),
        (Parallelism(data=2, tensor=2, pipeline=2), {}, None, ""),
    ],
)
def test_rules(
    layout: Parallelism, changes: dict[str, object], rule: str | None, words: str
) -> None:
    broken = broken_rule(workload(**changes), layout)
    if rule is None:
        assert broken is None
    else:
        assert broken is not None
        assert broken[0] == rule
        assert words in broken[1]


def test_every_candidate_is_either_listed_or_rejected_with_a_reason() -> None:
    found = search(workload(), 16)
    listed = [plan.parallelism for plan in found.layouts]
    refused = [rejected.parallelism for rejected in found.rejected]
    assert sorted(map(repr, listed + refused)) == sorted(map(repr, candidates(16)))
    assert all(rejected.reason for rejected in found.rejected)
    for rejected in found.rejected:
        if rejected.rule == "memory":
            assert rejected.memory is not None
            assert rejected.memory > 0.9 * 80e9
            assert "H100 has 80.0 GB, of which 72.0 GB can be planned with" in rejected.reason
    assert all(plan.memory.total <= 0.9 * 80e9 for plan in found.layouts)
    assert {"memory", "host"} <= {rejected.rule for rejected in found.rejected}


def test_layouts_are_ranked_by_step_time() -> None:
    found = search(workload(), 16)
    assert [rank_key(plan) for plan in found.layouts] == sorted(map(rank_key, found.layouts))
    best = found.layouts[0]
    assert best.step_seconds == min(plan.step_seconds for plan in found.layouts)


def test_a_small_model_is_best_replicated() -> None:
    best = search(workload("smollm2-135m"), 8).layouts[0]
    assert best.parallelism == Parallelism(data=8)


def test_a_step_is_the_larger_of_compute_and_communication_plus_the_bubble() -> None:
    plan = estimate(workload("llama-7b"), Parallelism(data=2, pipeline=4), 1)
    assert plan.micro_batches == 32
    assert plan.step_seconds == pytest.approx(
        max(plan.compute_seconds, plan.communication_seconds) + plan.bubble_seconds
    )
    assert plan.bubble == bubble_share(4, 32)
    idle = plan.bubble_seconds / (plan.compute_seconds + plan.bubble_seconds)
    assert idle == pytest.approx(plan.bubble)


def test_time_of_one_rank_is_tokens_times_flops_over_peak() -> None:
    load = workload("smollm2-135m", tokens=64 * 2048 * 10)
    plan = estimate(load, Parallelism(), 8)
    per_token = training_flops_per_token(load.architecture, 2048)
    expected = 64 * 2048 * 10 * per_token / (989.4e12 * 0.5)
    assert plan.seconds == pytest.approx(expected, rel=1e-4)  # stages leave the final norm out
    assert plan.accelerator_hours == pytest.approx(plan.seconds / 3600)
    assert plan.cost == pytest.approx(plan.accelerator_hours * 6.88)
    full = estimate(replace(load, recompute="full"), Parallelism(), 8)
    assert full.compute_seconds == pytest.approx(plan.compute_seconds * 4 / 3)
    assert full.memory.total < plan.memory.total


def test_communication_goes_over_the_links_that_the_groups_use() -> None:
    near = estimate(workload("smollm2-135m"), Parallelism(data=8), 1)
    far = estimate(workload("smollm2-135m", ranks_per_host=1), Parallelism(data=8), 1)
    assert far.communication_seconds == pytest.approx(near.communication_seconds * 450 / 50)
    # fp32 gradients out, bf16 weights back.
    assert near.communication_seconds == pytest.approx((4 + 2) * 134_515_008 / 450e9)


def test_without_a_micro_batch_size_the_largest_that_suits_is_taken() -> None:
    load = workload("smollm2-135m", micro_batch_size=None)
    assert evaluate(load, Parallelism(data=8)).micro_batch_size == 8
    assert evaluate(load, Parallelism(data=64)).micro_batch_size == 1
    pipelined = evaluate(load, Parallelism(data=2, pipeline=2))
    assert pipelined.micro_batches >= 4 * 2
    assert pipelined.micro_batch_size == 4
    small = cpu_slot(3 * 10**9, 8, 1)
    cramped = replace(load, accelerator=small, precision="fp32", global_batch_size=8)
    assert evaluate(cramped, Parallelism()).micro_batch_size == 1


def test_fewest_ranks() -> None:
    load = workload()
    assert fewest_ranks(workload("smollm2-135m"), 8) == 1
    count = fewest_ranks(load, 64)
    assert count is not None
    assert count > 1
    assert search(load, count).layouts
    assert not search(load, count // 2).layouts
    assert fewest_ranks(load, 1) is None


@settings(max_examples=25)
@given(
    ranks=st.sampled_from([1, 2, 6, 8, 12, 16, 24]),
    batch=st.sampled_from([8, 24, 48, 64]),
    host=st.sampled_from([1, 4, 8]),
)
def test_what_a_search_lists_keeps_every_rule(ranks: int, batch: int, host: int) -> None:
    load = workload(
        "llama-tiny", vocab_size=8192, global_batch_size=batch, ranks_per_host=host,
        micro_batch_size=None, sequence_length=128,
    )  # fmt: skip
    for plan in search(load, ranks).layouts:
        layout = plan.parallelism
        assert prod((layout.data, layout.tensor, layout.pipeline)) == ranks
        assert layout.tensor <= host
        assert layout.pipeline <= 4
        assert plan.micro_batches * plan.micro_batch_size * layout.data == batch
        assert plan.boundaries[-1] == 4
        assert plan.memory.total == max(stage.total for stage in plan.stages)


def test_replicas_that_train_apart_shard_nothing_and_meet_seldom() -> None:
    rare = Sync.model_validate({"every": 10, "outer": {"method": "nesterov"}})
    often = workload(precision="fp32")
    apart = replace(often, sync=rare)
    layout = Parallelism(data=4, zero=0)
    each, met = (evaluate(load, layout) for load in (often, apart))
    assert met.communication_seconds == pytest.approx(each.communication_seconds / 10)
    held = met.memory.weights / 4
    assert met.memory.optimizer == pytest.approx(each.memory.optimizer + 8 * held)
    assert {layout.zero for layout in candidates(8, apart=True)} == {0}
    assert {layout.data for layout in candidates(8, apart=True)} == {2, 4, 8}
    assert [layout.data for layout in candidates(1, apart=True)] == [1]
    found = search(workload("llama-tiny", sync=rare), 4)
    assert found.layouts
    assert all(plan.parallelism.zero == 0 and plan.parallelism.data > 1 for plan in found.layouts)
    broken = broken_rule(apart, Parallelism(data=4, zero=1))
    assert broken is not None
    assert broken[0] == "zero"
    assert "set parallelism.zero: 0" in broken[1]
