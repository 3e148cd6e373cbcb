"""Bytes of activations that a decoder layer keeps for its backward pass."""

from __future__ import annotations

from quarterdeck.planner.flops import Recompute
from quarterdeck.planner.parameters import vocabulary
from quarterdeck.specs.architecture import Architecture
from quarterdeck.specs.training import Precision


def gpt_layer_bytes(
    sequence: int,
    batch: int,
    hidden: int,
    heads: int,
    *,
    tensor: int = 1,
    sequence_parallel: bool = False,
    recompute: Recompute = "none",
) -> float:
    """A GPT layer in 16 bits with dropout (Korthikanti et al. 2022, table 2).

    sbh(34 + 5as/h); tensor parallel sbh(10 + 24/t + 5as/ht); sequence parallel all of it ÷ t;
    selective recomputation drops the attention term, full keeps the input only, 2sbh.
    """
    tokens = sequence * batch * hidden
    outside = 10 / tensor if sequence_parallel else 10.0
    if recompute == "full":
        return 2 * tokens / (tensor if sequence_parallel else 1)
    scores = 0.0 if recompute == "selective" else 5 * heads * sequence / hidden
    return tokens * (outside + (24 + scores) / tensor)


def llama_layer_bytes(
    sequence: int,
    batch: int,
    architecture: Architecture,
    *,
    tensor: int = 1,
    sequence_parallel: bool = False,
    recompute: Recompute = "none",
    eager_attention: bool = False,
    precision: Precision = "bf16",
) -> float:
    """A LLaMA layer with SDPA: sbh(20.1 + 4k/a + 8f/h) in bf16; eager attention adds 6as/h.

    Of the 20.1, two norms keep 16 (an fp32 and a bf16 copy of their input, and their bf16
    output), query and attention output 4, the softmax statistics the rest. In fp32 a norm keeps
    three copies of 4 bytes and everything else is twice as wide. Experts: what a token visits.
    """
    scores = 6.0 * architecture.num_attention_heads * sequence if eager_attention else 0.0
    tokens = sequence * batch
    if recompute == "full":
        return _input_bytes(tokens, architecture, tensor, sequence_parallel, precision)
    return tokens * (
        _norms(architecture, precision) / (tensor if sequence_parallel else 1)
        + _attention(architecture, tensor, precision, architecture.kv_heads)
        + _feed_forward(architecture, precision) / tensor
        + (2 if precision == "fp32" else 1) * scores / tensor
    )


def layer_bytes(
    sequence: int,
    batch: int,
    architecture: Architecture,
    *,
    tensor: int = 1,
    sequence_parallel: bool = False,
    recompute: Recompute = "none",
    precision: Precision = "bf16",
) -> float:
    """A layer of our own modules: SDPA (no kept scores), no dropout, and key/value heads
    repeated to the number of query heads before the attention kernel."""
    tokens = sequence * batch
    if recompute == "full":
        return _input_bytes(tokens, architecture, tensor, sequence_parallel, precision)
    return tokens * (
        _norms(architecture, precision) / (tensor if sequence_parallel else 1)
        + _attention(architecture, tensor, precision, architecture.num_attention_heads)
        + _feed_forward(architecture, precision) / tensor
    )


def _width(precision: Precision) -> int:
    return 4 if precision == "fp32" else 2


def _input_bytes(
    tokens: int,
    architecture: Architecture,
    tensor: int,
    sequence_parallel: bool,
    precision: Precision,
) -> float:
    """What full recomputation keeps: the layer's input, 2sbh in 16 bits."""
    split = tensor if sequence_parallel else 1
    return _width(precision) * tokens * architecture.hidden_size / split


def _norms(architecture: Architecture, precision: Precision) -> float:
    """Bytes per token of two norms. LayerNorm keeps its input, and its output is kept as the
    next matrix's input; RMSNorm computes in fp32 and keeps input and result of that as well."""
    width = _width(precision)
    copies = 2 * width if architecture.norm == "layernorm" else 4 + 2 * width
    return 2.0 * copies * architecture.hidden_size


def _attention(
    architecture: Architecture, tensor: int, precision: Precision, kept_heads: int
) -> float:
    """Bytes per token of query, output (and 0.1 of softmax statistics), key and value; a rank
    holds at least one key/value head."""
    size, width = architecture.head_size, _width(precision)
    query = 2.05 * width * architecture.num_attention_heads * size / tensor
    return query + 2.0 * width * kept_heads * size / min(tensor, kept_heads)


def _feed_forward(architecture: Architecture, precision: Precision) -> float:
    """Bytes per token: SwiGLU keeps gate, up, the activated gate and their product, GELU its
    input and output. Experts: those that a token visits."""
    inner = architecture.intermediate_size
    if moe := architecture.moe:
        visited = moe.experts_per_token + moe.shared_experts
        inner = max(inner if moe.dense_layers else 0, visited * moe.expert_intermediate_size)
    kept = 4 if architecture.activation == "swiglu" else 2
    return float(kept * _width(precision) * inner)


def loss_bytes(
    sequence: int, batch: int, architecture: Architecture, vocab_size: int, tensor: int = 1
) -> float:
    """The last stage's loss at its peak, 12sbV for one micro-batch: fp32 logits, probabilities
    and gradient; with bf16 logits, which take 2 bytes, a bf16 gradient comes beside the fp32 one.
    """
    return 12.0 * sequence * batch * vocabulary(architecture, vocab_size) / tensor


def in_flight(pipeline: int, micro_batches: int, stage: int = 0) -> int:
    """Micro-batches whose activations stage `stage` holds at once under 1F1B: min(m, p − i)."""
    return min(micro_batches, pipeline - stage)


def in_flight_layers(layers: int, pipeline: int, micro_batches: int, interleave: int = 1) -> float:
    """Layers' worth of activations on the first stage: L × min(m, p)/p; interleaving v chunks
    multiplies by 1 + (p−1)/(pv) (Korthikanti et al. 2022, section 4.2)."""
    share = min(micro_batches, pipeline) / pipeline
    extra = 1 + (pipeline - 1) / (pipeline * interleave) if interleave > 1 else 1.0
    return layers * share * extra
