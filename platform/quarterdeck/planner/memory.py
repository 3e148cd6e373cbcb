"""Bytes of device memory: training state, whole ranks of a layout, caches, quantised models."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, NamedTuple

from quarterdeck.planner import activations
from quarterdeck.planner.flops import Recompute
from quarterdeck.planner.parameters import (
    count_parameters,
    layer_parameters_per_rank,
    padded_vocabulary,
    per_layer,
)
from quarterdeck.planner.stages import stage_boundaries
from quarterdeck.specs.architecture import Architecture
from quarterdeck.specs.base import Message
from quarterdeck.specs.training import Parallelism, Precision

StatePrecision = Literal["fp32", "mixed", "half"]

BYTES: dict[str, int] = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 1, "int8": 1}
STATE_BYTES: dict[StatePrecision, tuple[int, int, int]] = {
    "fp32": (4, 4, 8),
    "mixed": (2, 2, 12),
    "half": (2, 2, 4),
}
"""Weights, gradients, optimizer (Adam's two moments, with `mixed` the fp32 master copy too)."""
NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)
"""Bits per weight of NF4 with double quantisation: blocks of 64 share an 8-bit constant, 256
constants share one of 32 bits (Dettmers et al. 2023): 4.127."""

REDUCE_BUCKET = 500_000_000
"""Elements of one gradient reduction at most, the trainer's setting."""


class TrainingState(NamedTuple):
    """Bytes of weights, gradients and optimizer state."""

    weights: float
    gradients: float
    optimizer: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer


class MemoryParts(Message):
    """Bytes on one rank, by part. `stage` is the pipeline stage that they are of."""

    stage: int = 0
    weights: int
    gradients: int
    gradient_accumulation: int = 0
    """fp32 gradients that bf16 micro-batches are added up in."""
    optimizer: int
    gathered: int = 0
    """ZeRO-3: parameters gathered for the layers at work."""
    communication: int = 0
    """The fp32 bucket that gradients are reduced in."""
    activations: int
    loss: int = 0
    """Logits, probabilities and gradient (last stage)."""
    host: int = 0
    """Bytes of host memory, not in `total`: the offloaded optimizer state and the fp32 gradients
    that it steps with."""
    total: int


def training_state(
    parameters: float, precision: StatePrecision = "mixed", *, zero: int = 0, data: int = 1
) -> TrainingState:
    """Bytes per rank under ZeRO (Rajbhandari et al. 2020): stage 1 splits the optimizer state
    over `data` ranks, 2 the gradients too, 3 the weights too. Without ZeRO 16 B per parameter
    (`mixed` and `fp32`) or 8 (`half`)."""
    weights, gradients, optimizer = STATE_BYTES[precision]
    return TrainingState(
        weights * parameters / (data if zero >= 3 else 1),
        gradients * parameters / (data if zero >= 2 else 1),
        optimizer * parameters / (data if zero >= 1 else 1),
    )


def worst_stage_parameters(
    layer_parameters: float, vocab_size: int, hidden: int, pipeline: int, tensor: int
) -> float:
    """(P_layers/p + V·h)/t: the largest stage of an even split (Megatron's theoretical memory)."""
    return (layer_parameters / pipeline + vocab_size * hidden) / tensor


def weight_bytes(parameters: float, precision: str = "bf16") -> float:
    """Bytes of weights for inference: fp32 4, bf16 and fp16 2, fp8 and int8 1, nf4 0.516.

    Raises ValueError on another precision.
    """
    if precision == "nf4":
        return parameters * NF4_BITS / 8
    if precision not in BYTES:
        raise ValueError(f"precision {precision!r} is not one of {', '.join(BYTES)}, nf4")
    return parameters * BYTES[precision]


def kv_cache_bytes_per_token(architecture: Architecture, width: int = 2) -> int:
    """2·L·k·d·bytes; latent attention keeps L(c + r)·bytes. `width` is bytes per element."""
    layers = architecture.num_hidden_layers
    if latent := architecture.latent_attention:
        return layers * (latent.kv_lora_rank + latent.qk_rope_head_dim) * width
    return 2 * layers * architecture.kv_heads * architecture.head_size * width


class QloraMemory(NamedTuple):
    """Bytes of a QLoRA fine-tune: quantised layers, 16-bit embeddings, adapters' full state."""

    quantised: float
    embeddings: float
    adapters: float
    activations: float

    @property
    def total(self) -> float:
        return sum(self)


def qlora_memory(
    architecture: Architecture,
    adapter_parameters: int,
    *,
    vocab_size: int | None = None,
    activation_bytes: float = 0.0,
) -> QloraMemory:
    """4.127 bits × layer parameters + bf16 embeddings and head + 16 B × adapters + activations."""
    count = count_parameters(architecture, vocab_size)
    kept = count.embedding + count.position_embedding + count.head
    return QloraMemory(
        (count.total - kept) * NF4_BITS / 8, 2.0 * kept, 16.0 * adapter_parameters, activation_bytes
    )


def stage_parameters(
    architecture: Architecture, vocab_size: int, boundaries: list[int], tensor: int
) -> list[int]:
    """Parameters that each stage's ranks hold; a tied embedding is on the first and the last."""
    count = count_parameters(architecture, padded_vocabulary(vocab_size, tensor))
    held = per_layer(
        architecture, lambda index: layer_parameters_per_rank(architecture, index, tensor)
    )
    stages = [sum(held[start:end]) for start, end in pairwise(boundaries)]
    stages[0] += -(-count.embedding // tensor) + count.position_embedding
    head = count.head or (count.embedding if len(stages) > 1 else 0)
    final_norm = architecture.hidden_size * (1 if architecture.norm == "rmsnorm" else 2)
    stages[-1] += -(-head // tensor) + final_norm
    return stages


def rank_memory(
    architecture: Architecture,
    vocab_size: int,
    parallelism: Parallelism,
    *,
    sequence_length: int,
    micro_batch_size: int,
    micro_batches: int,
    precision: Precision,
    recompute: Recompute = "none",
    outer_bytes: int = 0,
) -> list[MemoryParts]:
    """Memory of a rank of every pipeline stage, by part.

    bf16 counts the fp32 buffer in which DeepSpeed's bf16 optimizer adds up gradients, whole per
    rank under ZeRO-0 and 1 and split from 2 on. With `offload: optimizer` the optimizer's state
    is the host's. `outer_bytes` per parameter are an outer optimizer's. Raises ValueError when
    stages outnumber layers.
    """
    p, t, data, zero = (
        parallelism.pipeline,
        parallelism.tensor,
        parallelism.data,
        parallelism.zero,
    )
    boundaries = stage_boundaries(architecture, vocab_size, sequence_length, p)
    held = stage_parameters(architecture, vocab_size, boundaries, t)
    per_layer = {
        mode: activations.layer_bytes(
            sequence_length,
            micro_batch_size,
            architecture,
            tensor=t,
            sequence_parallel=parallelism.sequence,
            recompute=mode,
            precision=precision,
        )
        for mode in ("none", recompute)
    }
    result = []
    for stage, parameters in enumerate(held):
        layers = boundaries[stage + 1] - boundaries[stage]
        state = training_state(
            parameters, "fp32" if precision == "fp32" else "mixed", zero=zero, data=data
        )
        kept = layers * per_layer[recompute] * activations.in_flight(p, micro_batches, stage)
        # With full recomputation the layer at work has all its activations once more.
        working = per_layer["none"] if recompute == "full" else 0.0
        accumulation = 0.0 if precision == "fp32" else 4.0 * parameters / (data if zero >= 2 else 1)
        last = stage == p - 1
        offloaded = parallelism.offload == "optimizer"
        host = state.optimizer + BYTES["fp32"] * parameters / data if offloaded else 0.0
        parts = {
            "weights": state.weights,
            "gradients": state.gradients,
            "gradient_accumulation": accumulation,
            "optimizer": outer_bytes * parameters + (0.0 if offloaded else state.optimizer),
            "gathered": _gathered(architecture, vocab_size, t, precision) if zero == 3 else 0.0,
            "communication": 4.0 * min(parameters, REDUCE_BUCKET) if data > 1 else 0.0,
            "activations": kept + working,
            "loss": activations.loss_bytes(
                sequence_length, micro_batch_size, architecture, vocab_size, t
            )
            if last
            else 0.0,
        }
        rounded = {name: round(value) for name, value in parts.items()}
        total = sum(rounded.values())
        result.append(MemoryParts(stage=stage, total=total, host=round(host), **rounded))
    return result


def _gathered(
    architecture: Architecture, vocab_size: int, tensor: int, precision: Precision
) -> float:
    """The layer at work and the one fetched ahead, or the embedding where that is larger."""
    largest = max(
        per_layer(
            architecture, lambda index: layer_parameters_per_rank(architecture, index, tensor)
        )
    )
    embedding = vocab_size * architecture.hidden_size / tensor
    return BYTES[precision] * max(2.0 * largest, embedding)


def worst_rank(stages: list[MemoryParts]) -> MemoryParts:
    """The stage that needs most."""
    return max(stages, key=lambda parts: parts.total)
