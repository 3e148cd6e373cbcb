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
    h, a = architecture.hidden_size, architecture.num_attention_heads
    wide = 2 if precision == "fp32" else 1
    tokens = sequence * batch * h
    norms = 24.0 if precision == "fp32" else 16.0
    norms /= tensor if sequence_parallel else 1
    if recompute == "full":
        return 2.0 * wide * tokens / (tensor if sequence_parallel else 1)
    width = architecture.intermediate_size
    if moe := architecture.moe:
        visited = moe.experts_per_token + moe.shared_experts
        width = max(width if moe.dense_layers else 0, visited * moe.expert_intermediate_size)
    attention_share = a * architecture.head_size / h
    key_value_ways = min(tensor, architecture.kv_heads)
    query = 4.1 * attention_share / tensor
    key_value = 4 * architecture.kv_heads / a * attention_share / key_value_ways
    matrices = 8 if architecture.activation == "swiglu" else 4
    scores = 6 * a * sequence / h if eager_attention and recompute == "none" else 0.0
    return tokens * (norms + wide * (query + key_value + (matrices * width / h + scores) / tensor))


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
    """A layer of our own modules, which always use SDPA (no kept scores, no dropout)."""
    if architecture.activation == "swiglu":
        return llama_layer_bytes(
            sequence,
            batch,
            architecture,
            tensor=tensor,
            sequence_parallel=sequence_parallel,
            recompute=recompute,
            precision=precision,
        )
    wide = 2 if precision == "fp32" else 1
    return wide * gpt_layer_bytes(
        sequence,
        batch,
        architecture.hidden_size,
        architecture.num_attention_heads,
        tensor=tensor,
        sequence_parallel=sequence_parallel,
        recompute="full" if recompute == "full" else "selective",
    )


def loss_bytes(
    sequence: int, batch: int, architecture: Architecture, vocab_size: int, tensor: int = 1
) -> float:
    """The last stage's logits in fp32 and their gradient, 8sbV, for one micro-batch."""
    return 8.0 * sequence * batch * vocabulary(architecture, vocab_size) / tensor


def in_flight(pipeline: int, micro_batches: int, stage: int = 0) -> int:
    """Micro-batches whose activations stage `stage` holds at once under 1F1B: min(m, p − i)."""
    return min(micro_batches, pipeline - stage)


def in_flight_layers(layers: int, pipeline: int, micro_batches: int, interleave: int = 1) -> float:
    """Layers' worth of activations on the first stage: L × min(m, p)/p; interleaving v chunks
    multiplies by 1 + (p−1)/(pv) (Korthikanti et al. 2022, section 4.2)."""
    share = min(micro_batches, pipeline) / pipeline
    extra = 1 + (pipeline - 1) / (pipeline * interleave) if interleave > 1 else 1.0
    return layers * share * extra
