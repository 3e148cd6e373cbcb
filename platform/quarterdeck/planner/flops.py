"""How many floating-point operations training takes, per token and per step."""

from __future__ import annotations

from typing import Literal

from quarterdeck.planner.parameters import count_parameters, layer_parameters, vocabulary
from quarterdeck.specs.architecture import Architecture

Recompute = Literal["none", "selective", "full"]
Trainable = Literal["all", "lora"]


def flops_per_token(
    parameters: float,
    layers: int,
    hidden: int,
    sequence: int,
    *,
    causal: bool = False,
    recompute: Recompute = "none",
    trainable: Trainable = "all",
) -> float:
    """FLOPs to train on one token: 6N + 12Lhs (Kaplan et al. 2020; Chowdhery et al. 2022).

    A causal kernel skips half of the attention scores: 6Lhs. Full recomputation repeats the
    forward pass (+2N and its attention); with LoRA the base weights' gradients vanish, so 4N.
    """
    attention = (1 if causal else 2) * 2 * layers * hidden * sequence
    passes = 2 if trainable == "lora" else 3
    weight_passes = passes + (1 if recompute == "full" else 0)
    attention_passes = 3 + (0 if recompute == "none" else 1)
    return weight_passes * 2 * parameters + attention_passes * attention


def megatron_flops(batch: int, sequence: int, layers: int, hidden: int, vocab: int) -> float:
    """FLOPs of one step of a GPT with full recomputation, 96BsLh²(1 + s/6h + V/16Lh)
    (Narayanan et al. 2021, equation 3)."""
    correction = 1 + sequence / (6 * hidden) + vocab / (16 * layers * hidden)
    return 96.0 * batch * sequence * layers * hidden**2 * correction


def attention_width(architecture: Architecture) -> float:
    """Width of the scores' and values' products: heads × head size (their mean for MLA)."""
    heads = architecture.num_attention_heads
    if latent := architecture.latent_attention:
        query = latent.qk_nope_head_dim + latent.qk_rope_head_dim
        return heads * (query + latent.v_head_dim) / 2
    return heads * architecture.head_size


def layer_flops_per_token(architecture: Architecture, index: int, sequence: int) -> float:
    """FLOPs of one training token (forward and backward) in decoder layer `index`, causal."""
    active = layer_parameters(architecture, index).active
    return 6.0 * active + 6.0 * attention_width(architecture) * sequence


def head_flops_per_token(architecture: Architecture, vocab_size: int) -> float:
    """FLOPs of one training token in the output projection."""
    return 6.0 * architecture.hidden_size * vocab_size


def matrix_parameters(architecture: Architecture, vocab_size: int | None = None) -> int:
    """Active parameters that are multiplied: looking an embedding up costs nothing, projecting
    onto a tied one costs as much as onto a separate one."""
    count = count_parameters(architecture, vocab_size)
    looked_up = count.position_embedding + (0 if count.head == 0 else count.embedding)
    return count.active - looked_up


def training_flops_per_token(
    architecture: Architecture,
    sequence: int,
    vocab_size: int | None = None,
    *,
    recompute: Recompute = "none",
) -> float:
    """Model FLOPs of one training token with causal attention: what MFU is measured against
    when `recompute` is `none`, what the hardware does otherwise."""
    width = attention_width(architecture)
    base = flops_per_token(
        matrix_parameters(architecture, vocabulary(architecture, vocab_size)),
        architecture.num_hidden_layers,
        1,
        0,
        recompute=recompute,
    )
    passes = 3 if recompute == "none" else 4
    return base + passes * 2.0 * architecture.num_hidden_layers * width * sequence
