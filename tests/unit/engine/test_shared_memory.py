"""A share of an accelerator's memory: what is left for the cache."""

from __future__ import annotations

import pytest
from transformers import GPT2Config, LlamaConfig

from quarterdeck_workers.engine.shared_memory import (
    cache_bytes_per_token,
    cache_tokens,
    memory_utilization,
    share_of,
)


def test_the_share_of_a_spec() -> None:
    assert share_of({}) == share_of({"resources": {"accelerator_share": None}}) == 1.0
    assert share_of({"resources": {"accelerator_share": 0.25}}) == 0.25


def test_cache_of_one_token_by_hugging_face_s_names() -> None:
    llama = LlamaConfig(
        hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8
    )
    assert cache_bytes_per_token(llama, 2) == 2 * 32 * 8 * 128 * 2
    assert cache_bytes_per_token(GPT2Config(n_embd=768, n_layer=12, n_head=12), 4) == 73728


def test_the_cache_gets_what_weights_leave_of_the_share() -> None:
    assert memory_utilization(0.4) == 0.36
    assert cache_tokens(0.4, 100_000, 16_000, 10, 2_000) == 2_000
    with pytest.raises(ValueError, match=r"accelerator_share: 0.4 .* of 2001: take a larger"):
        cache_tokens(0.4, 100_000, 16_000, 10, 2_001)
    with pytest.raises(ValueError, match="the cache of 0 tokens"):
        cache_tokens(0.1, 100_000, 16_000, 10, 1)
