"""The shape of a decoder: one class for the GPT and LLaMA families, `config.json` names."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from quarterdeck.specs.base import Spec
from quarterdeck.specs.units import PositiveCount

MOST_LAYERS = 1024
"""Planning takes time with the square of the layers, and any reader may ask for a plan."""


class MixtureOfExperts(Spec):
    """Sparse feed-forward layers: each token visits `experts_per_token` of `experts`."""

    experts: int = Field(gt=0)
    experts_per_token: int = Field(gt=0)
    expert_intermediate_size: PositiveCount
    shared_experts: int = Field(default=0, ge=0)
    dense_layers: int = Field(default=0, ge=0)
    """How many leading layers keep a dense feed-forward block of `intermediate_size`."""


class LatentAttention(Spec):
    """Multi-head latent attention (DeepSeek): ranks of the compressed query and key/value."""

    q_lora_rank: int = Field(gt=0)
    kv_lora_rank: int = Field(gt=0)
    qk_nope_head_dim: int = Field(gt=0)
    qk_rope_head_dim: int = Field(gt=0)
    v_head_dim: int = Field(gt=0)


class Architecture(Spec):
    """A decoder-only transformer. Defaults are LLaMA's; presets fill the whole of it.

    Sizes are counts of units (not bytes). Raises ValueError on impossible combinations.
    """

    model_type: Literal["gpt2", "llama", "mistral", "qwen2", "mixtral", "deepseek_v3"] = "llama"
    vocab_size: PositiveCount | None = None
    """None: taken from the tokenizer, padded to a multiple that the tensor degree divides."""
    hidden_size: PositiveCount
    intermediate_size: PositiveCount
    num_hidden_layers: int = Field(gt=0)
    num_attention_heads: int = Field(gt=0)
    num_key_value_heads: int | None = Field(default=None, gt=0)
    head_dim: int | None = Field(default=None, gt=0)
    max_position_embeddings: PositiveCount = 2048
    position_embedding: Literal["learned", "rope"] = "rope"
    rope_theta: float = Field(default=10_000.0, gt=0)
    rope_scaling: dict[str, float | int | str] | None = None
    norm: Literal["layernorm", "rmsnorm"] = "rmsnorm"
    norm_eps: float = Field(default=1e-5, gt=0)
    activation: Literal["gelu", "swiglu"] = "swiglu"
    """`gelu` is the tanh approximation of GPT-2 (two matrices), `swiglu` has three."""
    qkv_bias: bool = False
    attention_output_bias: bool = False
    mlp_bias: bool = False
    tie_word_embeddings: bool = False
    initializer_range: float = Field(default=0.02, ge=0)
    moe: MixtureOfExperts | None = None
    latent_attention: LatentAttention | None = None

    @property
    def kv_heads(self) -> int:
        """Key/value heads: 1 is MQA, fewer than the query heads GQA, equal MHA."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @model_validator(mode="after")
    def _consistent(self) -> Architecture:
        heads = self.num_attention_heads
        if self.num_hidden_layers > MOST_LAYERS:
            raise ValueError(
                f"num_hidden_layers {self.num_hidden_layers} is more than {MOST_LAYERS}: use fewer"
            )
        if self.moe is not None and self.moe.experts_per_token > self.moe.experts:
            raise ValueError(
                f"moe.experts_per_token {self.moe.experts_per_token} is more than "
                f"moe.experts {self.moe.experts}: a token visits each expert once at most"
            )
        if self.head_dim is None and self.hidden_size % heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not divisible by num_attention_heads {heads}: "
                "change one, or set head_dim"
            )
        if heads % self.kv_heads:
            raise ValueError(
                f"num_attention_heads {heads} is not divisible by "
                f"num_key_value_heads {self.kv_heads}: choose a divisor of {heads}"
            )
        if self.position_embedding == "rope" and self.head_size % 2:
            raise ValueError(f"rotary positions need an even head size, not {self.head_size}")
        return self
