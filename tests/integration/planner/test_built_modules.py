"""Planned counts equal those of modules that transformers builds (shapes only, no memory)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from quarterdeck.planner.parameters import count_parameters
from quarterdeck.specs.architecture import Architecture
from quarterdeck.specs.presets import load_preset, preset_names

TINY_VOCABULARY = 8192


def _vocabulary(architecture: Architecture) -> int:
    return architecture.vocab_size or TINY_VOCABULARY


def _gpt2(a: Architecture) -> Mapping[str, Any]:
    return {
        "vocab_size": _vocabulary(a),
        "n_positions": a.max_position_embeddings,
        "n_embd": a.hidden_size,
        "n_inner": a.intermediate_size,
        "n_layer": a.num_hidden_layers,
        "n_head": a.num_attention_heads,
    }


def _llama_like(a: Architecture) -> Mapping[str, Any]:
    fields: dict[str, Any] = {
        "vocab_size": _vocabulary(a),
        "hidden_size": a.hidden_size,
        "intermediate_size": a.intermediate_size,
        "num_hidden_layers": a.num_hidden_layers,
        "num_attention_heads": a.num_attention_heads,
        "num_key_value_heads": a.kv_heads,
        "tie_word_embeddings": a.tie_word_embeddings,
    }
    if moe := a.moe:
        fields |= {"num_local_experts": moe.experts, "num_experts_per_tok": moe.experts_per_token}
    if a.model_type == "deepseek_v3" and (moe := a.moe) and (latent := a.latent_attention):
        fields |= {
            "n_routed_experts": moe.experts,
            "n_shared_experts": moe.shared_experts,
            "moe_intermediate_size": moe.expert_intermediate_size,
            "first_k_dense_replace": moe.dense_layers,
            **latent.model_dump(),
        }
    return fields


@pytest.mark.parametrize("name", preset_names())
def test_transformers_builds_as_many(name: str) -> None:
    a = load_preset(name)
    fields = _gpt2(a) if a.model_type == "gpt2" else _llama_like(a)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(a.model_type, **fields))
    built = sum(parameter.numel() for parameter in model.parameters())
    assert count_parameters(a, _vocabulary(a)).total == built
