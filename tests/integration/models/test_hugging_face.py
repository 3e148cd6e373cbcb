"""The same weights give the same logits here and in transformers, both ways."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from quarterdeck.specs.architecture import Architecture
from quarterdeck_workers.models.folders import export, load_model
from quarterdeck_workers.models.hugging_face import (
    architecture_from_config,
    config_json,
    hugging_face_type,
    to_hugging_face,
)
from quarterdeck_workers.models.initialisation import build_model

VOCABULARY = 97
GPT2 = {
    "model_type": "gpt2", "position_embedding": "learned", "norm": "layernorm",
    "activation": "gelu", "qkv_bias": True, "attention_output_bias": True, "mlp_bias": True,
    "tie_word_embeddings": True,
}  # fmt: skip
LLAMA3_ROPE = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
SHAPES = {
    "gpt2": GPT2,
    "gpt2-untied-narrow": {**GPT2, "tie_word_embeddings": False, "intermediate_size": 40},
    "llama": {},
    "llama-gqa": {"num_key_value_heads": 2},
    "llama-mqa-tied": {"num_key_value_heads": 1, "tie_word_embeddings": True},
    "llama-biases": {"qkv_bias": True, "attention_output_bias": True, "mlp_bias": True},
    "llama-wide-heads": {"head_dim": 16, "rope_theta": 500_000.0},
    "llama-3.1": {"num_key_value_heads": 2, "rope_scaling": LLAMA3_ROPE},
    "llama-linear": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "mistral": {"model_type": "mistral", "num_key_value_heads": 2, "rope_theta": 1e6},
    "qwen2": {"model_type": "qwen2", "qkv_bias": True, "num_key_value_heads": 2, "norm_eps": 1e-6},
    "qwen2-tied": {"model_type": "qwen2", "qkv_bias": True, "tie_word_embeddings": True},
}


def make(name: str) -> Architecture:
    fields = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 64, "initializer_range": 0.2,
    }  # fmt: skip
    return Architecture(**{**fields, **SHAPES[name]})


def scramble(module: torch.nn.Module) -> None:
    """Random values for norms and biases too, so that a swapped one shows."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.empty_like(parameter).normal_(0.0, 0.1, generator=generator))


def tokens() -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (2, 48), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", SHAPES)
def test_transformers_reads_our_export(name: str, tmp_path: Path) -> None:
    architecture = make(name)
    ours = build_model(architecture, VOCABULARY, seed=1)
    scramble(ours)
    state = to_hugging_face(dict(ours.named_parameters()), architecture)
    export(tmp_path, state.items(), architecture, vocab_size=VOCABULARY)
    theirs, report = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    with torch.no_grad():
        difference = (ours(tokens()) - theirs.eval()(tokens()).logits).abs().max().item()
        assert difference <= 1e-4
        again, read = load_model(tmp_path)
        assert torch.equal(again(tokens()), ours(tokens()))
    kept = {"vocab_size": VOCABULARY, "head_dim": architecture.head_size}
    if architecture.position_embedding == "rope":
        kept["num_key_value_heads"] = architecture.kv_heads
    else:
        kept.pop("head_dim")
    assert read == architecture.model_copy(update=kept)


@pytest.mark.parametrize("name", SHAPES)
def test_we_read_what_transformers_writes(name: str, tmp_path: Path) -> None:
    torch.manual_seed(7)
    config = AutoConfig.for_model(**config_json(make(name), VOCABULARY))
    theirs = AutoModelForCausalLM.from_config(config).eval()
    scramble(theirs)
    theirs.save_pretrained(tmp_path)
    ours, architecture = load_model(tmp_path)
    assert hugging_face_type(architecture) == config.model_type
    with torch.no_grad():
        assert (ours(tokens()) - theirs(tokens()).logits).abs().max().item() <= 1e-4


def test_big_exports_are_sharded(tmp_path: Path) -> None:
    architecture = make("llama")
    ours = build_model(architecture, VOCABULARY, seed=1)
    state = to_hugging_face(dict(ours.named_parameters()), architecture)
    files = export(
        tmp_path, state.items(), architecture, vocab_size=VOCABULARY, max_shard_bytes=20_000
    )
    shards = [file for file in files if file.suffix == ".safetensors"]
    assert len(shards) > 2
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(map(str, files))
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(state)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.no_grad():
        assert (ours(tokens()) - theirs(tokens()).logits).abs().max().item() <= 1e-4


def test_bf16_export_halves_the_file(tmp_path: Path) -> None:
    architecture = make("llama")
    ours = build_model(architecture, VOCABULARY, seed=1)
    state = to_hugging_face(dict(ours.named_parameters()), architecture)
    export(tmp_path, state.items(), architecture, vocab_size=VOCABULARY, dtype=torch.bfloat16)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.dtype == torch.bfloat16
    assert torch.equal(loaded.lm_head.weight, ours.head.weight.bfloat16())


def test_weights_of_another_shape_are_named(tmp_path: Path) -> None:
    architecture = make("llama")
    state = to_hugging_face(
        dict(build_model(architecture, VOCABULARY, seed=1).named_parameters()), architecture
    )
    del state["model.norm.weight"]
    export(tmp_path, state.items(), architecture, vocab_size=VOCABULARY)
    with pytest.raises(ValueError, match=r"model\.norm\.weight is missing"):
        load_model(tmp_path)


def test_a_shape_without_a_class_is_refused() -> None:
    odd = make("llama").model_copy(update={"norm": "layernorm"})
    with pytest.raises(ValueError, match="no Hugging Face class"):
        config_json(odd, VOCABULARY)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "bert"}, "bert"),
        ({"hidden_act": "relu"}, "relu"),
        ({"model_type": "mistral", "sliding_window": 4096}, "4096"),
    ],
)
def test_unknown_configurations_are_named(change: dict[str, object], message: str) -> None:
    config = config_json(make("llama"), VOCABULARY) | change
    with pytest.raises(ValueError, match=message):
        architecture_from_config(config)
