"""Golden memory figures: training state, ZeRO, pipelines, caches, quantised models."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quarterdeck.planner.memory import (
    NF4_BITS,
    kv_cache_bytes_per_token,
    qlora_memory,
    rank_memory,
    stage_parameters,
    training_state,
    weight_bytes,
    worst_rank,
    worst_stage_parameters,
)
from quarterdeck.planner.parameters import count_parameters, lora_adapter_parameters
from quarterdeck.planner.stages import stage_boundaries
from quarterdeck.specs.architecture import Architecture
from quarterdeck.specs.presets import load_preset
from quarterdeck.specs.training import Parallelism

GB = 1e9


@pytest.mark.parametrize(("zero", "gigabytes"), [(0, 120), (1, 31.4), (2, 16.6), (3, 1.9)])
def test_zero_of_7_5b_on_64_ranks(zero: int, gigabytes: float) -> None:
    """Rajbhandari et al. 2020, figure 1."""
    assert round(training_state(7.5e9, zero=zero, data=64).total / GB, 1) == gigabytes


@pytest.mark.parametrize(("zero", "gigabytes"), [(1, 38.5), (2, 26.25), (3, 14.0)])
def test_sharded_state_of_7b_on_8_ranks(zero: int, gigabytes: float) -> None:
    assert training_state(7e9, zero=zero, data=8).total == gigabytes * GB


def test_training_and_inference_of_7b() -> None:
    assert training_state(7e9).total == 112 * GB
    assert weight_bytes(7e9) == 14 * GB


@pytest.mark.parametrize(("precision", "gigabytes"), [("fp32", 4), ("fp16", 2), ("fp8", 1)])
def test_weights_of_1b(precision: str, gigabytes: int) -> None:
    assert weight_bytes(1e9, precision) == gigabytes * GB


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="'fp12' is not one of"):
        weight_bytes(1, "fp12")


def test_full_fine_tune_of_1b_by_precision() -> None:
    assert training_state(1e9, "fp32") == (4 * GB, 4 * GB, 8 * GB)
    assert training_state(1e9, "half") == (2 * GB, 2 * GB, 4 * GB)
    assert training_state(1e9, "fp32").total == 16 * GB
    assert training_state(1e9, "half").total == 8 * GB
    assert training_state(1e9, "mixed").total == 16 * GB


def test_7b_on_32_ranks_in_three_dimensions() -> None:
    """p 4, t 4, D 2, ZeRO-1, even split: (4N + 12N/2)/16."""
    assert training_state(7e9 / 16, zero=1, data=2).total == 4.375 * GB


def test_worst_pipeline_stage() -> None:
    a = load_preset("gpt-3-175b")
    count = count_parameters(a, 51200)
    layers = count.total - count.embedding - count.position_embedding
    formula = worst_stage_parameters(layers, 51200, a.hidden_size, 8, 8)
    boundaries = [12 * stage for stage in range(9)]
    held = stage_parameters(a, 51200, boundaries, 8)
    # The formula leaves out that norms, output biases and positions are whole on each rank.
    assert max(held) == pytest.approx(formula, rel=0.02)
    assert max(held) > formula
    assert worst_stage_parameters(96, 10, 2, 4, 2) == (96 / 4 + 20) / 2


@pytest.mark.parametrize(
    ("name", "size"),
    [("llama-3-8b", 128 * 1024), ("llama-2-70b", 320 * 1024), ("deepseek-v3", 70_272)],
)
def test_kv_cache_per_token(name: str, size: int) -> None:
    assert kv_cache_bytes_per_token(load_preset(name)) == size


def test_qlora_of_65b_fits_48_gb() -> None:
    a = load_preset("llama-65b")
    memory = qlora_memory(a, lora_adapter_parameters(a, 16), activation_bytes=2e9)
    assert round(NF4_BITS, 3) == 4.127
    assert round(memory.quantised / GB, 1) == 33.4
    assert round(memory.embeddings / GB, 1) == 1.0
    assert memory.adapters == 16 * lora_adapter_parameters(a, 16)
    assert memory.total < 48 * GB


def test_a_rank_of_one_holds_the_whole_state() -> None:
    tiny = load_preset("llama-tiny")
    count = count_parameters(tiny, 8192).total
    (parts,) = rank_memory(
        tiny, 8192, Parallelism(), sequence_length=128, micro_batch_size=2, micro_batches=4,
        precision="fp32",
    )  # fmt: skip
    assert (parts.weights, parts.gradients, parts.optimizer) == (4 * count, 4 * count, 8 * count)
    assert parts.gradient_accumulation == 0
    (mixed,) = rank_memory(
        tiny, 8192, Parallelism(), sequence_length=128, micro_batch_size=2, micro_batches=4,
        precision="bf16",
    )  # fmt: skip
    assert mixed.weights + mixed.gradients + mixed.optimizer == 16 * count
    assert mixed.gradient_accumulation == 4 * count


def test_zero_3_adds_the_layers_at_work() -> None:
    a = load_preset("llama-3-8b")
    stages = [
        rank_memory(
            a, 128256, Parallelism(data=8, zero=zero), sequence_length=2048, micro_batch_size=1,
            micro_batches=4, precision="bf16",
        )[0]
        for zero in (2, 3)
    ]  # fmt: skip
    assert stages[0].gathered == 0
    assert stages[1].gathered == 2 * 128256 * 4096  # the embedding, larger than two layers
    assert stages[1].total < stages[0].total


def test_data_parallel_ranks_hold_a_bucket_to_reduce_in() -> None:
    sizes = [
        rank_memory(
            load_preset(name), 32000, Parallelism(data=data), sequence_length=128,
            micro_batch_size=1, micro_batches=1, precision="bf16",
        )[0].communication
        for name, data in (("llama-7b", 2), ("llama-tiny", 2), ("llama-7b", 1))
    ]  # fmt: skip
    tiny = count_parameters(load_preset("llama-tiny"), 32000).total
    assert sizes == [4 * 500_000_000, 4 * tiny, 0]


def test_tied_embeddings_are_on_both_ends_of_a_pipeline() -> None:
    a = load_preset("qwen-2.5-0.5b")
    boundaries = stage_boundaries(a, 151936, 1024, 2)
    held = stage_parameters(a, 151936, boundaries, 1)
    assert sum(held) == count_parameters(a).total + 151936 * a.hidden_size


def _memory(a: Architecture, layout: Parallelism, **changes: int) -> int:
    arguments = {"sequence_length": 512, "micro_batch_size": 2, "micro_batches": 8, **changes}
    stages = rank_memory(a, 32000, layout, precision="bf16", **arguments)
    for parts in stages:
        values = parts.model_dump(exclude={"stage", "total"})
        assert sum(values.values()) == parts.total
    return worst_rank(stages).total


DEGREE = st.sampled_from([1, 2, 4, 8])


@settings(max_examples=60)
@given(data=DEGREE, tensor=DEGREE, pipeline=DEGREE, sequence=st.booleans())
def test_more_ranks_never_need_more_memory_each(
    data: int, tensor: int, pipeline: int, sequence: bool
) -> None:
    a = load_preset("llama-7b")
    layout = Parallelism(
        data=data, tensor=tensor, pipeline=pipeline, sequence=sequence and tensor > 1
    )
    here = _memory(a, layout)
    if data > 1:  # the first second replica brings the bucket
        assert _memory(a, layout.model_copy(update={"data": 2 * data})) <= here
    assert _memory(a, layout.model_copy(update={"tensor": 2 * tensor})) <= here
    if pipeline == 1:
        sizes = [_memory(a, layout.model_copy(update={"zero": zero})) for zero in (0, 1, 2)]
        assert sizes == sorted(sizes, reverse=True)
    assert _memory(a, layout, micro_batch_size=4) >= here
    assert _memory(a, layout, sequence_length=1024) >= here
