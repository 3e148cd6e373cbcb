"""The decoder: plain modules, from token ids to logits. Parallelism is applied from outside.

A model is a list of parts that each take and give [batch, sequence, hidden] (the first takes
token ids, the last gives logits), so that a pipeline can cut between any two: `embedding`,
`positions` (learned positions only), `layers[i]`, `norm`, `head` (absent when tied). Attention
reads its number of heads from the width that its projections give, so that column-split
projections need no other change. Projections of one input go through the block's `project`, which
a parallel form replaces to apply them together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from quarterdeck.specs.architecture import Architecture
from quarterdeck_workers.models.rotary import Rotary

Project = Callable[[Tensor, Sequence[nn.Module]], Sequence[Tensor]]


def apply_each(value: Tensor, projections: Sequence[nn.Module]) -> Sequence[Tensor]:
    """What every projection makes of one input."""
    return [projection(value) for projection in projections]


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) · weight, over the last dimension (Zhang & Sennrich 2019).

    The mean is taken in fp32.
    """

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, hidden: Tensor) -> Tensor:
        wide = hidden.float()
        scale = torch.rsqrt(wide.pow(2).mean(dim=-1, keepdim=True) + self.eps)
        normed: Tensor = (wide * scale).to(hidden.dtype) * self.weight
        return normed


class PositionEmbedding(nn.Module):
    """Adds a learned vector for each position: [batch, sequence, hidden] to the same."""

    def __init__(self, positions: int, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(positions, hidden_size))

    def forward(self, hidden: Tensor) -> Tensor:
        length, known = hidden.shape[1], self.weight.shape[0]
        if length > known:
            raise ValueError(
                f"a sequence of {length} tokens is longer than max_position_embeddings {known}: "
                "use a smaller sequence_length, or an architecture with more positions"
            )
        return hidden + self.weight[:length]


class Attention(nn.Module):
    """Causal self-attention, multi-head, grouped or multi-query by the widths of k and v.

    Splitting over a tensor group means replacing q, k, v (by rows) and o (by columns): the
    forward pass only assumes that query heads are a multiple of key/value heads on each rank.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        hidden, size = architecture.hidden_size, architecture.head_size
        width, narrow = architecture.num_attention_heads * size, architecture.kv_heads * size
        self.head_size = size
        self.project: Project = apply_each
        self.rotary = Rotary.of(architecture)
        self.q = nn.Linear(hidden, width, bias=architecture.qkv_bias)
        self.k = nn.Linear(hidden, narrow, bias=architecture.qkv_bias)
        self.v = nn.Linear(hidden, narrow, bias=architecture.qkv_bias)
        self.o = nn.Linear(width, hidden, bias=architecture.attention_output_bias)

    def forward(self, hidden: Tensor) -> Tensor:
        query, key, value = (
            self._heads(each) for each in self.project(hidden, (self.q, self.k, self.v))
        )
        if self.rotary is not None:
            query, key = self.rotary.apply(query, key)
        shared = query.shape[1] // key.shape[1]
        if shared > 1:
            key = key.repeat_interleave(shared, dim=1)
            value = value.repeat_interleave(shared, dim=1)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        output: Tensor = self.o(mixed.transpose(1, 2).flatten(2))
        return output

    def _heads(self, value: Tensor) -> Tensor:
        """[batch, sequence, heads · size] to [batch, heads, sequence, size]."""
        heads = value.view(*value.shape[:2], -1, self.head_size)
        return heads.transpose(1, 2)


class GeluFeedForward(nn.Module):
    """GPT-2's two matrices around GELU (tanh approximation)."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        hidden, wide = architecture.hidden_size, architecture.intermediate_size
        self.project: Project = apply_each
        self.up = nn.Linear(hidden, wide, bias=architecture.mlp_bias)
        self.down = nn.Linear(wide, hidden, bias=architecture.mlp_bias)

    def forward(self, hidden: Tensor) -> Tensor:
        (up,) = self.project(hidden, (self.up,))
        output: Tensor = self.down(functional.gelu(up, approximate="tanh"))
        return output


class SwigluFeedForward(nn.Module):
    """down(silu(gate(x)) · up(x)) (Shazeer 2020)."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        hidden, wide = architecture.hidden_size, architecture.intermediate_size
        self.project: Project = apply_each
        self.gate = nn.Linear(hidden, wide, bias=architecture.mlp_bias)
        self.up = nn.Linear(hidden, wide, bias=architecture.mlp_bias)
        self.down = nn.Linear(wide, hidden, bias=architecture.mlp_bias)

    def forward(self, hidden: Tensor) -> Tensor:
        gate, up = self.project(hidden, (self.gate, self.up))
        output: Tensor = self.down(functional.silu(gate) * up)
        return output


class DecoderLayer(nn.Module):
    """A pre-norm layer: [batch, sequence, hidden] to the same."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.attention_norm = make_norm(architecture)
        self.attention = Attention(architecture)
        self.feed_forward_norm = make_norm(architecture)
        swiglu = architecture.activation == "swiglu"
        self.feed_forward = (SwigluFeedForward if swiglu else GeluFeedForward)(architecture)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.attention(self.attention_norm(hidden))
        output: Tensor = hidden + self.feed_forward(self.feed_forward_norm(hidden))
        return output


class Decoder(nn.Module):
    """The whole model on one rank: token ids [batch, sequence] to logits [.., vocabulary]."""

    def __init__(self, architecture: Architecture, vocab_size: int) -> None:
        super().__init__()
        check_buildable(architecture)
        self.embedding = make_embedding(architecture, vocab_size)
        self.positions = make_positions(architecture)
        self.layers = nn.ModuleList(
            DecoderLayer(architecture) for _ in range(architecture.num_hidden_layers)
        )
        self.norm = make_norm(architecture)
        self.head = make_head(architecture, vocab_size)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden: Tensor = self.embedding(tokens)
        if self.positions is not None:
            hidden = self.positions(hidden)
        for layer in self.layers:
            hidden = layer(hidden)
        hidden = self.norm(hidden)
        head = self.embedding if self.head is None else self.head
        return functional.linear(hidden, head.weight)


def check_buildable(architecture: Architecture) -> None:
    """Raises ValueError, naming the field, for shapes that can be planned but not built here."""
    for field in ("moe", "latent_attention"):
        if getattr(architecture, field) is not None:
            raise ValueError(
                f"architecture.{field} can be planned but not trained here: "
                "use a dense architecture of the GPT or LLaMA family"
            )
    Rotary.of(architecture)


def make_embedding(architecture: Architecture, vocab_size: int) -> nn.Embedding:
    """Token ids to hidden vectors."""
    return nn.Embedding(vocab_size, architecture.hidden_size)


def make_positions(architecture: Architecture) -> PositionEmbedding | None:
    """Learned positions; None with rotary ones."""
    if architecture.position_embedding == "rope":
        return None
    return PositionEmbedding(architecture.max_position_embeddings, architecture.hidden_size)


def make_norm(architecture: Architecture) -> nn.Module:
    """The architecture's normalisation over the hidden size."""
    kind = nn.LayerNorm if architecture.norm == "layernorm" else RMSNorm
    return kind(architecture.hidden_size, eps=architecture.norm_eps)


def make_head(architecture: Architecture, vocab_size: int) -> nn.Linear | None:
    """The output projection; None when it is the embedding's matrix."""
    if architecture.tie_word_embeddings:
        return None
    return nn.Linear(architecture.hidden_size, vocab_size, bias=False)
