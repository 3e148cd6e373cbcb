"""Presets are found by name, whole, and nothing else is."""

from __future__ import annotations

import pytest

from quarterdeck.specs.presets import load_preset, preset_names

NAMES = [
    "gpt2",
    "gpt2-medium",
    "gpt2-large",
    "gpt2-xl",
    "gpt-3-175b",
    "gpt2-tiny",
    "llama-7b",
    "llama-13b",
    "llama-33b",
    "llama-65b",
    "llama-2-7b",
    "llama-2-13b",
    "llama-2-70b",
    "llama-3-8b",
    "llama-3-70b",
    "llama-3.1-8b",
    "llama-3.1-70b",
    "llama-3.1-405b",
    "llama-tiny",
    "smollm2-135m",
    "mistral-7b",
    "mixtral-8x7b",
    "deepseek-v3",
    "qwen-2.5-0.5b",
    "qwen-2.5-1.5b",
    "qwen-2.5-3b",
    "qwen-2.5-7b",
    "qwen-2.5-14b",
    "qwen-2.5-32b",
    "qwen-2.5-72b",
]


def test_every_preset_is_listed_once() -> None:
    assert sorted(preset_names()) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_presets_state_their_vocabulary_unless_they_are_to_be_trained(name: str) -> None:
    architecture = load_preset(name)
    assert (architecture.vocab_size is None) == name.endswith("-tiny")
    assert architecture.position_embedding == ("learned" if name.startswith("gpt") else "rope")


def test_fields_of_a_family_are_shared_and_overridden() -> None:
    small, large = load_preset("qwen-2.5-0.5b"), load_preset("qwen-2.5-72b")
    assert small.qkv_bias and large.qkv_bias
    assert (small.tie_word_embeddings, large.tie_word_embeddings) == (True, False)
    assert load_preset("llama-7b").norm_eps == 1e-6
    assert load_preset("llama-65b").norm_eps == 1e-5


def test_llama_3_1_differs_from_3_by_its_context_only() -> None:
    new, old = load_preset("llama-3.1-8b"), load_preset("llama-3-8b")
    assert new.rope_scaling is not None
    assert new.rope_scaling["factor"] == 8.0
    changed = {"rope_scaling", "max_position_embeddings"}
    assert new.model_dump(exclude=changed) == old.model_dump(exclude=changed)


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"'lama-3-8b' is not a preset: did you mean llama-3-8b"):
        load_preset("lama-3-8b")
    with pytest.raises(ValueError, match=r"known: .*gpt2"):
        load_preset("#")
