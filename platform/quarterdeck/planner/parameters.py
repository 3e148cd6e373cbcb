"""How many parameters an architecture has, by part, and how many of them a token meets.

Counts equal those of the built modules (Hugging Face's and ours): every weight and bias once,
tied embeddings once, rotary positions none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

from quarterdeck.specs.architecture import Architecture
from quarterdeck.specs.base import Message

Value = TypeVar("Value")


class LayerParameters(NamedTuple):
    """One decoder layer's parameters. `replicated` is held whole by every tensor rank, and
    `key_value` (part of `attention`) is split over at most the key/value heads."""

    attention: int
    key_value: int
    feed_forward: int
    feed_forward_active: int
    router: int
    norms: int
    replicated: int

    @property
    def total(self) -> int:
        return self.attention + self.feed_forward + self.router + self.norms

    @property
    def active(self) -> int:
        return self.attention + self.feed_forward_active + self.router + self.norms


class ParameterCount(Message):
    """Parameters by part. `active` is what one token meets (all of a dense model)."""

    embedding: int
    position_embedding: int
    attention: int
    feed_forward: int
    router: int
    norms: int
    head: int
    """The output projection; 0 when it is the embedding itself."""
    total: int
    active: int


def swiglu_width(hidden: int, multiple: int = 256) -> int:
    """LLaMA's feed-forward width: 8h/3 rounded up to a multiple (Touvron et al. 2023)."""
    return -(-(8 * hidden) // (3 * multiple)) * multiple


def vocabulary(architecture: Architecture, vocab_size: int | None = None) -> int:
    """The number of tokens to plan with: the argument, else the architecture's own.

    Raises ValueError when neither is known.
    """
    size = vocab_size if vocab_size is not None else architecture.vocab_size
    if size is None:
        raise ValueError(
            "architecture.vocab_size is not set: give the tokenizer's vocabulary size to plan with"
        )
    return size


def padded_vocabulary(size: int, tensor: int) -> int:
    """The vocabulary rounded up to a multiple of the tensor degree, which splits it."""
    return -(-size // tensor) * tensor


def _norm(architecture: Architecture, width: int) -> int:
    return width if architecture.norm == "rmsnorm" else 2 * width


def _attention(architecture: Architecture) -> tuple[int, int, int]:
    """Weights and biases of one attention block: (all, key/value, replicated)."""
    h, a = architecture.hidden_size, architecture.num_attention_heads
    if latent := architecture.latent_attention:
        q, c = latent.q_lora_rank, latent.kv_lora_rank
        n, r, v = latent.qk_nope_head_dim, latent.qk_rope_head_dim, latent.v_head_dim
        query_down = h * q + _norm(architecture, q) if q else 0
        query_up = (q or h) * a * (n + r)
        key_value_down = h * (c + r) + _norm(architecture, c)
        key_value_up = c * a * (n + v)
        output = a * v * h
        shared = query_down + key_value_down
        return shared + query_up + key_value_up + output, 0, shared
    d, k = architecture.head_size, architecture.kv_heads
    query, key_value, output = h * a * d, 2 * h * k * d, a * d * h
    if architecture.qkv_bias:
        query += a * d
        key_value += 2 * k * d
    output_bias = h if architecture.attention_output_bias else 0
    return query + key_value + output + output_bias, key_value, output_bias


def _dense_feed_forward(architecture: Architecture, width: int) -> tuple[int, int]:
    """Weights and biases of one feed-forward block of `width`: (all, replicated)."""
    matrices = 3 if architecture.activation == "swiglu" else 2
    weights = matrices * architecture.hidden_size * width
    if not architecture.mlp_bias:
        return weights, 0
    down_bias = architecture.hidden_size
    return weights + (matrices - 1) * width + down_bias, down_bias


def layer_parameters(architecture: Architecture, index: int) -> LayerParameters:
    """The parameters of decoder layer `index` (0-based)."""
    attention, key_value, replicated = _attention(architecture)
    norms = 2 * _norm(architecture, architecture.hidden_size)
    replicated += norms
    moe = architecture.moe
    if moe is None or index < moe.dense_layers:
        dense, bias = _dense_feed_forward(architecture, architecture.intermediate_size)
        return LayerParameters(attention, key_value, dense, dense, 0, norms, replicated + bias)
    expert, _ = _dense_feed_forward(architecture, moe.expert_intermediate_size)
    router = architecture.hidden_size * moe.experts
    return LayerParameters(
        attention=attention,
        key_value=key_value,
        feed_forward=(moe.experts + moe.shared_experts) * expert,
        feed_forward_active=(moe.experts_per_token + moe.shared_experts) * expert,
        router=router,
        norms=norms,
        replicated=replicated + router,
    )


def per_layer(architecture: Architecture, value: Callable[[int], Value]) -> list[Value]:
    """`value(index)` of every decoder layer, computed once for the dense ones and once for those
    with experts, which are alike among themselves."""
    layers = architecture.num_hidden_layers
    dense = min(architecture.moe.dense_layers, layers) if architecture.moe else layers
    return [value(0)] * dense + ([value(dense)] * (layers - dense) if dense < layers else [])


def count_parameters(architecture: Architecture, vocab_size: int | None = None) -> ParameterCount:
    """Every parameter of the model by part. `vocab_size` overrides the architecture's.

    Raises ValueError when no vocabulary is known.
    """
    size = vocabulary(architecture, vocab_size)
    layers = per_layer(architecture, lambda index: layer_parameters(architecture, index))
    embedding = size * architecture.hidden_size
    learned = architecture.position_embedding == "learned"
    positions = architecture.max_position_embeddings * architecture.hidden_size if learned else 0
    head = 0 if architecture.tie_word_embeddings else embedding
    final_norm = _norm(architecture, architecture.hidden_size)
    outside = embedding + positions + head + final_norm
    return ParameterCount(
        embedding=embedding,
        position_embedding=positions,
        attention=sum(layer.attention for layer in layers),
        feed_forward=sum(layer.feed_forward for layer in layers),
        router=sum(layer.router for layer in layers),
        norms=sum(layer.norms for layer in layers) + final_norm,
        head=head,
        total=outside + sum(layer.total for layer in layers),
        active=outside + sum(layer.active for layer in layers),
    )


def layer_parameters_per_rank(architecture: Architecture, index: int, tensor: int) -> int:
    """Parameters of layer `index` on one rank of a tensor group: matrices are split, norms and
    output biases are whole, and each rank holds at least one key/value head."""
    layer = layer_parameters(architecture, index)
    split = layer.total - layer.replicated - layer.key_value
    key_value_ways = min(tensor, architecture.kv_heads)
    return layer.replicated + -(-split // tensor) + -(-layer.key_value // key_value_ways)


def lora_parameters(inputs: int, outputs: int, rank: int) -> int:
    """Adapter parameters of one matrix: r(in + out) (Hu et al. 2021)."""
    return rank * (inputs + outputs)


def lora_adapter_parameters(architecture: Architecture, rank: int) -> int:
    """Adapter parameters with LoRA on every linear matrix of every layer (`all-linear`).

    Raises ValueError for latent attention and experts, whose adapters are not planned.
    """
    if architecture.latent_attention or architecture.moe:
        raise ValueError("LoRA is planned for dense attention and feed-forward layers only")
    h, f = architecture.hidden_size, architecture.intermediate_size
    query = architecture.num_attention_heads * architecture.head_size
    key_value = architecture.kv_heads * architecture.head_size
    matrices = [(h, query), (h, key_value), (h, key_value), (query, h), (h, f), (f, h)]
    if architecture.activation == "swiglu":
        matrices.append((h, f))
    per_layer = sum(lora_parameters(i, o, rank) for i, o in matrices)
    return architecture.num_hidden_layers * per_layer
