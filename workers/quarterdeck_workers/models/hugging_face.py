"""Names, shapes and configuration of the same weights in Hugging Face's layouts.

GPT-2's matrices are stored transposed (`Conv1D`), its query, key and value as one matrix; the
others differ in names only. Which class a model becomes follows from its shape, so that every
class reads equal logits from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quarterdeck.specs.architecture import Architecture
from quarterdeck_workers.models.rotary import rope_type

LLAMA_NAMES = {
    "embedding": "model.embed_tokens",
    "positions": "model.embed_positions",
    "norm": "model.norm",
    "head": "lm_head",
    "attention_norm": "input_layernorm",
    "feed_forward_norm": "post_attention_layernorm",
    "attention.q": "self_attn.q_proj",
    "attention.k": "self_attn.k_proj",
    "attention.v": "self_attn.v_proj",
    "attention.o": "self_attn.o_proj",
    "feed_forward.gate": "mlp.gate_proj",
    "feed_forward.up": "mlp.up_proj",
    "feed_forward.down": "mlp.down_proj",
}
GPT2_NAMES = {
    "embedding": "transformer.wte",
    "positions": "transformer.wpe",
    "norm": "transformer.ln_f",
    "head": "lm_head",
    "attention_norm": "ln_1",
    "feed_forward_norm": "ln_2",
    "attention.q": "attn.c_attn",
    "attention.k": "attn.c_attn",
    "attention.v": "attn.c_attn",
    "attention.o": "attn.c_proj",
    "feed_forward.up": "mlp.c_fc",
    "feed_forward.down": "mlp.c_proj",
}
FUSED = {"attention.q": 0, "attention.k": 1, "attention.v": 2}


@dataclass(frozen=True)
class Placement:
    """Where one of our parameters lies in Hugging Face's form.

    Our tensor, transposed when `transpose`, is the part of tensor `name` (of `shape`) that
    begins at `start`; most are the whole of it.
    """

    name: str
    shape: tuple[int, ...]
    start: tuple[int, ...]
    transpose: bool = False


def is_gpt2(architecture: Architecture) -> bool:
    """Whether the shape is exactly what transformers' GPT-2 computes."""
    return (
        architecture.position_embedding == "learned"
        and architecture.norm == "layernorm"
        and architecture.activation == "gelu"
        and architecture.qkv_bias
        and architecture.attention_output_bias
        and architecture.mlp_bias
        and architecture.kv_heads == architecture.num_attention_heads
        and architecture.head_size * architecture.num_attention_heads == architecture.hidden_size
    )


def placement(parameter_name: str, shape: tuple[int, ...], architecture: Architecture) -> Placement:
    """The Hugging Face place of our parameter, e.g. `layers.3.attention.q.weight`.

    `shape` is that of our whole tensor. Raises KeyError for a name that is not a parameter.
    """
    path, _, leaf = parameter_name.rpartition(".")
    gpt2 = is_gpt2(architecture)
    names = GPT2_NAMES if gpt2 else LLAMA_NAMES
    if not path.startswith("layers."):
        return Placement(f"{names[path]}.{leaf}", shape, (0,) * len(shape))
    _, index, inside = path.split(".", 2)
    layers = "transformer.h" if gpt2 else "model.layers"
    name = f"{layers}.{index}.{names[inside]}.{leaf}"
    if not gpt2:
        return Placement(name, shape, (0,) * len(shape))
    transpose = len(shape) == 2
    theirs = shape[::-1] if transpose else shape
    if inside not in FUSED:
        return Placement(name, theirs, (0,) * len(theirs), transpose)
    width = theirs[-1]
    whole = (*theirs[:-1], 3 * width)
    start = (*(0 for _ in theirs[:-1]), FUSED[inside] * width)
    return Placement(name, whole, start, transpose)


def to_hugging_face(state: Mapping[str, Tensor], architecture: Architecture) -> dict[str, Tensor]:
    """Our whole tensors by our names to Hugging Face's; a shared matrix appears once.

    Tensors are views where nothing has to be joined.
    """
    joined: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name == "head.weight" and architecture.tie_word_embeddings:
            continue
        place = placement(name, tuple(tensor.shape), architecture)
        theirs = tensor.t() if place.transpose else tensor
        if tuple(theirs.shape) == place.shape:
            joined[place.name] = theirs
            continue
        whole = joined.get(place.name)
        if whole is None:
            whole = joined[place.name] = theirs.new_empty(place.shape)
        _part(whole, place, tuple(theirs.shape)).copy_(theirs)
    return joined


def from_hugging_face(
    state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], architecture: Architecture
) -> dict[str, Tensor]:
    """Hugging Face's tensors to ours. `shapes` are our whole parameters' by our names.

    Raises ValueError naming every tensor that is missing or of another shape.
    """
    found: dict[str, Tensor] = {}
    wrong: list[str] = []
    for name, shape in shapes.items():
        place = placement(name, shape, architecture)
        tensor = state.get(place.name)
        if tensor is None and place.name.startswith("transformer."):
            tensor = state.get(place.name.removeprefix("transformer."))  # the first GPT-2 files
        if tensor is None:
            wrong.append(f"{place.name} is missing")
        elif tuple(tensor.shape) != place.shape:
            wrong.append(f"{place.name} has shape {tuple(tensor.shape)}, not {place.shape}")
        else:
            extent = shape[::-1] if place.transpose else shape
            part = _part(tensor, place, extent)
            found[name] = part.t() if place.transpose else part
    if wrong:
        raise ValueError(
            f"the weights do not fit the architecture: {'; '.join(wrong[:5])}"
            + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        )
    return found


def _part(whole: Tensor, place: Placement, extent: Iterable[int]) -> Tensor:
    return whole[tuple(slice(s, s + e) for s, e in zip(place.start, extent, strict=True))]


def hugging_face_type(architecture: Architecture) -> str:
    """The `model_type` whose class computes this architecture: its own where that can.

    Raises ValueError naming what no class has.
    """
    if is_gpt2(architecture):
        return "gpt2"
    llama_like = (
        architecture.position_embedding == "rope"
        and architecture.norm == "rmsnorm"
        and architecture.activation == "swiglu"
        and architecture.moe is None
        and architecture.latent_attention is None
    )
    biases = (architecture.qkv_bias, architecture.attention_output_bias, architecture.mlp_bias)
    if llama_like and biases == (True, False, False):
        return "qwen2"
    if llama_like and architecture.model_type == "mistral" and not any(biases):
        return "mistral"
    if llama_like and architecture.qkv_bias == architecture.attention_output_bias:
        return "llama"
    raise ValueError(
        "no Hugging Face class computes this architecture, so it could not be exported: use the "
        "whole of GPT-2's shape (learned positions, layernorm, gelu, all biases, no key/value "
        "groups) or LLaMA's (rope, rmsnorm, swiglu; qkv_bias alone or with attention_output_bias)"
    )


CLASSES = {
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
}


def config_json(
    architecture: Architecture,
    vocab_size: int,
    *,
    eos_token_id: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Any]:
    """The content of `config.json`. Raises ValueError for a shape that no class has."""
    kind = hugging_face_type(architecture)
    config: dict[str, Any] = {
        "architectures": [CLASSES[kind]],
        "model_type": kind,
        "vocab_size": vocab_size,
        "tie_word_embeddings": architecture.tie_word_embeddings,
        "initializer_range": architecture.initializer_range,
        "bos_token_id": eos_token_id,
        "eos_token_id": eos_token_id,
        "dtype": str(dtype).removeprefix("torch."),
        "use_cache": True,
    }
    if kind == "gpt2":
        return config | {
            "n_embd": architecture.hidden_size,
            "n_inner": architecture.intermediate_size,
            "n_layer": architecture.num_hidden_layers,
            "n_head": architecture.num_attention_heads,
            "n_positions": architecture.max_position_embeddings,
            "layer_norm_epsilon": architecture.norm_eps,
            "activation_function": "gelu_new",
            "attn_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "resid_pdrop": 0.0,
        }
    config |= {
        "hidden_size": architecture.hidden_size,
        "intermediate_size": architecture.intermediate_size,
        "num_hidden_layers": architecture.num_hidden_layers,
        "num_attention_heads": architecture.num_attention_heads,
        "num_key_value_heads": architecture.kv_heads,
        "head_dim": architecture.head_size,
        "max_position_embeddings": architecture.max_position_embeddings,
        "rope_theta": architecture.rope_theta,
        "rope_scaling": architecture.rope_scaling,
        "rms_norm_eps": architecture.norm_eps,
        "hidden_act": "silu",
        "attention_dropout": 0.0,
    }
    if kind == "llama":
        config |= {"attention_bias": architecture.qkv_bias, "mlp_bias": architecture.mlp_bias}
    if kind == "mistral":
        config["sliding_window"] = None
    if kind == "qwen2":
        config["use_sliding_window"] = False
    return config


def architecture_from_config(config: Mapping[str, Any]) -> Architecture:
    """Read a `config.json`. Raises ValueError naming what is not built here."""
    kind = config.get("model_type")
    if kind == "gpt2":
        return _from_gpt2(config)
    if kind not in CLASSES:
        raise ValueError(
            f"model_type {kind!r} is not built here: known are {', '.join(sorted(CLASSES))}"
        )
    if config.get("hidden_act", "silu") != "silu":
        raise ValueError(f"hidden_act {config['hidden_act']!r} is not built here: only silu is")
    if kind == "mistral" and config.get("sliding_window") is not None:
        raise ValueError(
            f"sliding_window {config['sliding_window']} is not built here: use a model without"
        )
    if kind == "qwen2" and config.get("use_sliding_window"):
        raise ValueError("use_sliding_window is not built here: use a model without")
    theta, scaling = _rope(config)
    biased = bool(config.get("attention_bias", False)) if kind == "llama" else kind == "qwen2"
    return Architecture(
        model_type=kind,
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        num_hidden_layers=config["num_hidden_layers"],
        num_attention_heads=config["num_attention_heads"],
        num_key_value_heads=config.get("num_key_value_heads"),
        head_dim=config.get("head_dim"),
        max_position_embeddings=config["max_position_embeddings"],
        rope_theta=theta,
        rope_scaling=scaling,
        norm_eps=config["rms_norm_eps"],
        qkv_bias=biased,
        attention_output_bias=biased and kind == "llama",
        mlp_bias=bool(config.get("mlp_bias", False)),
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
        initializer_range=config.get("initializer_range", 0.02),
    )


def _rope(config: Mapping[str, Any]) -> tuple[float, dict[str, Any] | None]:
    """Base and scaling from either generation of configuration files."""
    parameters = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    theta = float(parameters.pop("rope_theta", config.get("rope_theta", 10_000.0)))
    return theta, None if rope_type(parameters) == "default" else parameters


def _from_gpt2(config: Mapping[str, Any]) -> Architecture:
    activation = config.get("activation_function", "gelu_new")
    if activation not in ("gelu_new", "gelu_pytorch_tanh"):
        raise ValueError(f"activation_function {activation!r} is not built here: only gelu_new is")
    for field in ("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn"):
        if config.get(field):
            raise ValueError(f"{field} is not built here: use a model without")
    hidden = config["n_embd"]
    return Architecture(
        model_type="gpt2",
        vocab_size=config["vocab_size"],
        hidden_size=hidden,
        intermediate_size=config.get("n_inner") or 4 * hidden,
        num_hidden_layers=config["n_layer"],
        num_attention_heads=config["n_head"],
        max_position_embeddings=config["n_positions"],
        position_embedding="learned",
        norm="layernorm",
        norm_eps=config.get("layer_norm_epsilon", 1e-5),
        activation="gelu",
        qkv_bias=True,
        attention_output_bias=True,
        mlp_bias=True,
        tie_word_embeddings=bool(config.get("tie_word_embeddings", True)),
        initializer_range=config.get("initializer_range", 0.02),
    )
