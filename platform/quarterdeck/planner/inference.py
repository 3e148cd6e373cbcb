"""What serving a model takes: weights, KV cache, and the roofline of prefill and decode."""

from __future__ import annotations

from typing import Literal

from quarterdeck.planner import roofline
from quarterdeck.planner.estimate import USABLE_MEMORY
from quarterdeck.planner.flops import matrix_parameters
from quarterdeck.planner.hardware import Accelerator
from quarterdeck.planner.memory import kv_cache_bytes_per_token, weight_bytes
from quarterdeck.planner.parameters import ParameterCount, count_parameters
from quarterdeck.planner.time_cost import throughput
from quarterdeck.specs.architecture import Architecture
from quarterdeck.specs.base import Message

Bound = Literal["compute", "memory"]


class InferencePlan(Message):
    """One replica's estimate: bytes per accelerator, seconds, tokens and requests per second.

    Rates are upper bounds (the roofline); a good engine reaches 60 to 80 % of them.
    """

    fits: bool
    message: str
    parameters: ParameterCount
    accelerators: int
    accelerator: Accelerator
    precision: str
    weights: int
    """Bytes of weights on each accelerator."""
    kv_cache_per_token: int
    """Bytes of cache of one token, over all accelerators."""
    kv_cache: int
    """Bytes of cache on each accelerator for `concurrency` sequences of full length."""
    total: int
    memory_share: float
    max_concurrency: int
    """Sequences of full length whose cache fits beside the weights."""
    prefill_seconds: float
    prefill_bound: Bound
    decode_step_seconds: float
    decode_bound: Bound
    tokens_per_second: float
    """Generated tokens of all concurrent sequences."""
    tokens_per_second_single: float
    """The same with one sequence alone."""
    requests_per_second: float
    latency_seconds: float
    """Prefill and all generated tokens of one request."""
    cost_per_million_tokens: float
    ridge: float
    """FLOPs per byte at which the accelerator turns from memory- to compute-bound."""


def plan_inference(
    architecture: Architecture,
    *,
    accelerator: Accelerator,
    tensor: int = 1,
    pipeline: int = 1,
    precision: str = "bf16",
    prompt_tokens: int = 1024,
    generated_tokens: int = 256,
    concurrency: int = 1,
    vocab_size: int | None = None,
) -> InferencePlan:
    """Plan one replica that serves `concurrency` sequences at once.

    `precision` is the weights' (`nf4` and `int8` compute in bf16, on hardware without it fp16);
    the cache is 16 bits wide, with fp32 weights 32. Raises ValueError on an unknown precision, an
    unknown vocabulary, a degree that does not divide heads or layers, or counts below 1.
    """
    counts = {
        "tensor": tensor,
        "pipeline": pipeline,
        "prompt_tokens": prompt_tokens,
        "generated_tokens": generated_tokens,
        "concurrency": concurrency,
    }
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} {value} must be at least 1")
    if architecture.num_attention_heads % tensor:
        raise ValueError(
            f"tensor: {tensor} does not divide num_attention_heads "
            f"{architecture.num_attention_heads}"
        )
    if pipeline > architecture.num_hidden_layers:
        raise ValueError(
            f"pipeline: {pipeline} is more than the {architecture.num_hidden_layers} layers"
        )
    devices = tensor * pipeline
    parameters = count_parameters(architecture, vocab_size)
    active = matrix_parameters(architecture, vocab_size)
    peak = accelerator.peak_of(_arithmetic(accelerator, precision))
    length = prompt_tokens + generated_tokens
    per_token = kv_cache_bytes_per_token(architecture, 4 if precision == "fp32" else 2)
    # Beyond the key/value heads, tensor ranks hold copies of the cache.
    latent = architecture.latent_attention is not None
    ways = pipeline * (1 if latent else min(tensor, architecture.kv_heads))
    weights = weight_bytes(parameters.total, precision) / devices
    cache = concurrency * length * per_token / ways
    budget = USABLE_MEMORY * accelerator.memory
    room = max(0, int((budget - weights) / (length * per_token / ways)))

    def step(batch: int) -> tuple[float, Bound]:
        read_cache = batch * length * per_token / ways
        # Stages work one after the other on one token: the whole model is read for each.
        reading = pipeline * roofline.decode_step_seconds(
            weights, read_cache, accelerator.bandwidth
        )
        computing = roofline.decode_compute_seconds(active, batch, peak * tensor)
        return (computing, "compute") if computing > reading else (reading, "memory")

    prefill = roofline.prefill_seconds(active, prompt_tokens, peak * tensor)
    reading_weights = pipeline * weights / accelerator.bandwidth
    decode, decode_bound = step(concurrency)
    latency = max(prefill, reading_weights) + generated_tokens * decode
    rate = concurrency / decode
    total = round(weights + cache)
    return InferencePlan(
        fits=total <= budget,
        message=_message(accelerator, total, budget, room, concurrency),
        parameters=parameters,
        accelerators=devices,
        accelerator=accelerator,
        precision=precision,
        weights=round(weights),
        kv_cache_per_token=per_token,
        kv_cache=round(cache),
        total=total,
        memory_share=total / accelerator.memory,
        max_concurrency=room,
        prefill_seconds=max(prefill, reading_weights),
        prefill_bound="compute" if prefill >= reading_weights else "memory",
        decode_step_seconds=decode,
        decode_bound=decode_bound,
        tokens_per_second=rate,
        tokens_per_second_single=1 / step(1)[0],
        requests_per_second=throughput(concurrency, latency),
        latency_seconds=latency,
        cost_per_million_tokens=devices * accelerator.price_per_hour / (rate * 3600) * 1e6,
        ridge=roofline.ridge(peak, accelerator.bandwidth),
    )


def cache_tokens_of_share(share: float, memory: int, weights: int, per_token: int) -> int:
    """Tokens whose cache (`per_token` bytes each) fits beside the weights into a share, 0 to 1, of
    an accelerator's memory; memory and weights in bytes."""
    return max(0, int(share * USABLE_MEMORY * memory) - weights) // per_token


def _arithmetic(accelerator: Accelerator, precision: str) -> str:
    if precision in accelerator.peak and precision != "int8":
        return precision
    if precision == "fp32":
        return "fp32"
    return next((name for name in ("bf16", "fp16") if name in accelerator.peak), "fp32")


def _message(
    accelerator: Accelerator, total: int, budget: float, room: int, concurrency: int
) -> str:
    need = f"weights and cache need {total / 1e9:.1f} GB of {accelerator.memory / 1e9:.1f} GB"
    if total <= budget:
        return f"fits: {need} per accelerator"
    if room:
        return f"{need} per accelerator: at most {room} of {concurrency} sequences fit at once"
    return (
        f"{need} per accelerator, not even one sequence: raise tensor, quantise the weights, "
        "or take a larger accelerator"
    )
