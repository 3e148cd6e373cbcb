"""Golden activation formulas (Korthikanti et al. 2022; LLaMA as measured)."""

from __future__ import annotations

import pytest

from quarterdeck.planner.activations import (
    gpt_layer_bytes,
    in_flight,
    in_flight_layers,
    layer_bytes,
    llama_layer_bytes,
    loss_bytes,
)
from quarterdeck.specs.presets import load_preset

S, B, H, A = 2048, 1, 12288, 96
SBH = S * B * H


def test_gpt_layer() -> None:
    scores = 5 * A * S / H
    assert gpt_layer_bytes(S, B, H, A) == SBH * (34 + scores)
    assert gpt_layer_bytes(S, B, H, A, tensor=8) == SBH * (10 + 24 / 8 + scores / 8)
    everything = gpt_layer_bytes(S, B, H, A, tensor=8, sequence_parallel=True)
    assert everything == pytest.approx(SBH * (34 + scores) / 8)
    assert gpt_layer_bytes(S, B, H, A, recompute="selective") == SBH * 34
    assert gpt_layer_bytes(S, B, H, A, recompute="full") == 2 * SBH


def test_gpt_3_at_the_papers_layout() -> None:
    """Its section 5: scores are 80 of 114 per sbh for GPT-3 (a=96, s=2048, h=12288)."""
    assert 5 * A * S / H == 80


@pytest.mark.parametrize("name", ["llama-7b", "llama-3-8b", "llama-2-70b"])
def test_llama_layer(name: str) -> None:
    a = load_preset(name)
    h = a.hidden_size
    kv, ffn = 4 * a.kv_heads / a.num_attention_heads, 8 * a.intermediate_size / h
    expected = 1024 * 2 * h * (20.1 + kv + ffn)
    assert llama_layer_bytes(1024, 2, a) == pytest.approx(expected)
    eager = llama_layer_bytes(1024, 2, a, eager_attention=True)
    scores = 6 * a.num_attention_heads * 1024 / h
    assert eager == pytest.approx(expected + 1024 * 2 * h * scores)
    sequence = llama_layer_bytes(1024, 2, a, tensor=8, sequence_parallel=True)
    assert sequence == pytest.approx(expected / 8)
    assert llama_layer_bytes(1024, 2, a, recompute="full") == 2 * 1024 * 2 * h


def test_more_tensor_ranks_than_key_value_heads_keep_a_head_each() -> None:
    a = load_preset("smollm2-135m")  # 9 heads, 3 key/value heads
    three, nine = (llama_layer_bytes(64, 1, a, tensor=t) for t in (3, 9))
    tokens = 64 * a.hidden_size
    shared = 4.1 + 8 * a.intermediate_size / a.hidden_size
    assert three - nine == pytest.approx(tokens * shared * (1 / 3 - 1 / 9))


def test_our_layers_by_parts() -> None:
    """Norms, attention and feed-forward of each family, in bytes per token and hidden unit."""
    gpt, llama = load_preset("gpt2"), load_preset("llama-tiny")
    attention = 4.1 + 4
    gelu = 512 * 2 * 768 * (8 + attention + 16)
    assert layer_bytes(512, 2, gpt) == pytest.approx(gelu)
    assert layer_bytes(512, 2, gpt, precision="fp32") == pytest.approx(2 * gelu)
    swiglu = 128 * 128 * (16 + attention + 24)
    assert layer_bytes(128, 1, llama) == pytest.approx(swiglu)
    wide = 128 * 128 * (24 + 2 * (attention + 24))
    assert layer_bytes(128, 1, llama, precision="fp32") == pytest.approx(wide)
    assert layer_bytes(128, 1, llama, precision="fp32", recompute="full") == 4 * 128 * 128
    split = layer_bytes(128, 1, llama, tensor=2)
    assert split == pytest.approx(128 * 128 * (16 + (attention + 24) / 2))


def test_logits_probabilities_and_gradient() -> None:
    assert loss_bytes(128, 2, load_preset("llama-tiny"), 8192, 2) == 12 * 128 * 2 * 8192 / 2


def test_micro_batches_in_flight() -> None:
    assert [in_flight(4, 16, stage) for stage in range(4)] == [4, 3, 2, 1]
    assert in_flight(4, 2) == 2
    assert in_flight_layers(96, 8, 64) == 96
    assert in_flight_layers(96, 8, 4) == 48
    assert in_flight_layers(96, 8, 64, interleave=2) == 96 * (1 + 7 / 16)
