"""Golden parameter counts: published models, the mission's 7B, and what tensor ranks hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.planner.parameters import (
    count_parameters,
    layer_parameters,
    layer_parameters_per_rank,
    lora_adapter_parameters,
    lora_parameters,
    padded_vocabulary,
    swiglu_width,
)
from quarterdeck.specs.architecture import Architecture
from quarterdeck.specs.presets import load_preset

PUBLISHED = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "gpt-3-175b": 174_604_259_328,
    "llama-7b": 6_738_415_616,
    "llama-13b": 13_015_864_320,
    "llama-33b": 32_528_943_616,
    "llama-65b": 65_285_660_672,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "smollm2-135m": 134_515_008,
    "mistral-7b": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
    "qwen-2.5-0.5b": 494_032_768,
    "qwen-2.5-1.5b": 1_543_714_304,
    "qwen-2.5-3b": 3_085_938_688,
    "qwen-2.5-7b": 7_615_616_512,
    "qwen-2.5-14b": 14_770_033_664,
    "qwen-2.5-32b": 32_763_876_352,
    "qwen-2.5-72b": 72_706_203_648,
}
MISSION_7B = Architecture(
    vocab_size=65536,
    hidden_size=4096,
    intermediate_size=11008,
    num_hidden_layers=32,
    num_attention_heads=32,
)


@pytest.mark.parametrize(("name", "parameters"), PUBLISHED.items())
def test_counts_equal_the_published_ones(name: str, parameters: int) -> None:
    assert count_parameters(load_preset(name)).total == parameters


@pytest.mark.parametrize(
    ("name", "billions"),
    [("llama-13b", 13.016), ("llama-33b", 32.529), ("llama-65b", 65.286), ("llama-2-70b", 68.977)],
)
def test_llama_sizes_in_billions(name: str, billions: float) -> None:
    assert round(count_parameters(load_preset(name)).total / 1e9, 3) == billions


def test_the_missions_7b_tied_and_untied() -> None:
    tied = MISSION_7B.model_copy(update={"tie_word_embeddings": True})
    assert count_parameters(tied).total == 6_744_707_072
    assert count_parameters(MISSION_7B).total == 7_013_142_528


@pytest.mark.parametrize("name", ["llama-7b", "llama-2-70b", "llama-3-8b", "smollm2-135m"])
def test_dense_llama_formula(name: str) -> None:
    """(1 or 2)·V·h + L·(2h²(1+k/a) + 3hf + 2h) + h."""
    a = load_preset(name)
    h, f = a.hidden_size, a.intermediate_size
    attention = 2 * h * h * (a.num_attention_heads + a.kv_heads) // a.num_attention_heads
    layer = attention + 3 * h * f + 2 * h
    embeddings = (1 if a.tie_word_embeddings else 2) * (a.vocab_size or 0) * h
    assert count_parameters(a).total == embeddings + a.num_hidden_layers * layer + h


@pytest.mark.parametrize("name", ["gpt2", "gpt-3-175b"])
def test_gpt_formula(name: str) -> None:
    """VH + SH + L(12H² + 13H) + 2H."""
    a = load_preset(name)
    h = a.hidden_size
    expected = (50257 + a.max_position_embeddings) * h + a.num_hidden_layers * (12 * h * h + 13 * h)
    assert count_parameters(a).total == expected + 2 * h


def test_mixture_of_experts_total_and_active() -> None:
    mixtral = count_parameters(load_preset("mixtral-8x7b"))
    assert round(mixtral.total / 1e9, 2) == 46.70
    assert round(mixtral.active / 1e9, 2) == 12.88
    a = load_preset("mixtral-8x7b")
    assert a.moe is not None
    layer = layer_parameters(a, 0)
    assert layer.feed_forward == 8 * 3 * 4096 * 14336
    assert layer.router == 4096 * 8


def test_latent_attention_and_shared_experts() -> None:
    count = count_parameters(load_preset("deepseek-v3"))
    assert round(count.total / 1e9, 2) == 671.03
    assert 37.0e9 < count.active < 38.0e9
    h, q, a, n, r, c, v = 7168, 1536, 128, 128, 64, 512, 128
    matrices = h * q + q * a * (n + r) + h * (c + r) + c * a * (n + v) + a * v * h
    layer = layer_parameters(load_preset("deepseek-v3"), 0)
    assert layer.attention == matrices + q + c


def test_parts_sum_to_the_total() -> None:
    for name in (*PUBLISHED, "deepseek-v3"):
        count = count_parameters(load_preset(name))
        parts = count.model_dump(exclude={"total", "active"})
        assert sum(parts.values()) == count.total, name


@pytest.mark.parametrize(
    ("hidden", "width"), [(4096, 11008), (5120, 13824), (6656, 17920), (8192, 22016)]
)
def test_swiglu_width(hidden: int, width: int) -> None:
    assert swiglu_width(hidden) == width


def test_lora_of_one_matrix() -> None:
    assert lora_parameters(768, 768, 8) == 12_288
    assert 768 * 768 == 589_824
    assert round(100 * lora_parameters(768, 768, 8) / 589_824, 3) == 2.083


def test_lora_on_all_linear_layers_of_llama_7b() -> None:
    # Published by users of peft: r=16 on all seven matrices trains 39,976,960 parameters.
    assert lora_adapter_parameters(load_preset("llama-7b"), 16) == 39_976_960
    with pytest.raises(ValueError, match="dense"):
        lora_adapter_parameters(load_preset("mixtral-8x7b"), 16)


def test_a_missing_vocabulary_is_refused_and_an_argument_overrides() -> None:
    tiny = load_preset("llama-tiny")
    with pytest.raises(ValueError, match="vocab_size"):
        count_parameters(tiny)
    assert count_parameters(tiny, 8192).embedding == 8192 * 128
    assert count_parameters(load_preset("llama-7b"), 64).embedding == 64 * 4096


@given(size=st.integers(1, 300_000), tensor=st.integers(1, 16))
def test_padding_divides_and_adds_less_than_one_per_rank(size: int, tensor: int) -> None:
    padded = padded_vocabulary(size, tensor)
    assert padded % tensor == 0
    assert 0 <= padded - size < tensor


@given(
    name=st.sampled_from(["llama-3-8b", "gpt2-xl", "mixtral-8x7b", "deepseek-v3"]),
    tensor=st.sampled_from([1, 2, 4, 8, 16]),
)
def test_tensor_ranks_hold_the_layer_and_copies_of_what_is_whole(name: str, tensor: int) -> None:
    a = load_preset(name)
    layer = layer_parameters(a, a.num_hidden_layers - 1)
    held = layer_parameters_per_rank(a, a.num_hidden_layers - 1, tensor)
    copies = (tensor - 1) * layer.replicated
    copies += layer.key_value * max(0, tensor // min(tensor, a.kv_heads) - 1)
    assert layer.total <= tensor * held
    assert 0 <= tensor * held - (layer.total + copies) < 2 * tensor
