"""What to change when nothing fits, in order of price."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from quarterdeck.planner.estimate import USABLE_MEMORY, LayoutPlan, Workload, estimate
from quarterdeck.planner.hardware import CPU
from quarterdeck.planner.layouts import fewest_ranks, gigabytes
from quarterdeck.planner.memory import NF4_BITS, STATE_BYTES
from quarterdeck.planner.parameters import lora_adapter_parameters
from quarterdeck.specs.base import Message

LORA_RANK = 16

Name = Literal["recompute", "zero", "offload", "lora", "qlora", "smaller_batch", "more_ranks"]


class Remedy(Message):
    """One change, alone. `fields` are what to write in the spec; empty where the change is
    another kind of job."""

    name: Name
    change: str
    price: str
    fields: dict[str, Any] = {}
    memory: int | None
    """Bytes of the worst rank afterwards; None where the number of ranks changes."""
    fits: bool
    fits_with_cheaper: bool = False
    """Whether it fits together with every cheaper remedy before it."""


def remedies(workload: Workload, plan: LayoutPlan, *, rank_limit: int) -> list[Remedy]:
    """Every remedy that lowers `plan`'s memory, cheapest first.

    `rank_limit` bounds the search for a gang that is large enough.
    """
    found: list[Remedy] = []
    budget = USABLE_MEMORY * workload.accelerator.memory
    cheaper, current = workload, plan

    if workload.recompute != "full":
        cheaper = replace(workload, recompute="full")
        alone = estimate(cheaper, plan.parallelism, plan.micro_batch_size)
        current = alone
        if alone.memory.total < plan.memory.total:
            found.append(
                Remedy(
                    name="recompute",
                    change="keep only each layer's input and compute the rest again",
                    price="about a third more compute",
                    fields={"training": {"activation_checkpointing": "full"}},
                    memory=alone.memory.total,
                    fits=alone.fits,
                    fits_with_cheaper=alone.fits,
                )
            )
    zero = plan.parallelism.zero
    if plan.parallelism.pipeline == 1 and plan.parallelism.data > 1 and workload.sync is None:
        for stage in range(zero + 1, 4):
            sharded = plan.parallelism.model_copy(update={"zero": stage})
            alone = estimate(workload, sharded, plan.micro_batch_size)
            current = estimate(cheaper, sharded, plan.micro_batch_size)
            found.append(
                Remedy(
                    name="zero",
                    change=f"ZeRO stage {stage}",
                    price="half as much communication again" if stage == 3 else "none to speak of",
                    fields={"parallelism": {"zero": stage}},
                    memory=alone.memory.total,
                    fits=alone.fits,
                    fits_with_cheaper=current.fits,
                )
            )
    found.extend(_off_device(workload, plan, cheaper, current))
    found.extend(_adapters(workload, plan, current, budget))
    found.extend(_smaller_batch(workload, plan, cheaper, current))
    more = fewest_ranks(cheaper, rank_limit, start=2 * plan.ranks)
    if more is not None:
        alone_fits = fewest_ranks(workload, more, start=more) is not None
        found.append(
            Remedy(
                name="more_ranks",
                change=f"{more} ranks instead of {plan.ranks}",
                price=f"{more / plan.ranks:g} times as many accelerators, for a shorter time",
                fields={"parallelism": "auto", "ranks": more},
                memory=None,
                fits=alone_fits,
                fits_with_cheaper=True,
            )
        )
    return found


def _off_device(
    workload: Workload, plan: LayoutPlan, cheaper: Workload, current: LayoutPlan
) -> list[Remedy]:
    """Optimizer state on the host: on accelerators with memory of their own, no pipeline, and
    with ZeRO, which replicas that train apart cannot have."""
    layout = plan.parallelism
    if workload.sync is not None:
        return []
    if workload.accelerator.name == CPU or layout.pipeline > 1 or layout.offload != "none":
        return []
    offloaded, combined = (
        degrees.model_copy(update={"zero": max(degrees.zero, 1), "offload": "optimizer"})
        for degrees in (layout, current.parallelism)
    )
    alone = estimate(workload, offloaded, plan.micro_batch_size)
    together = estimate(cheaper, combined, plan.micro_batch_size)
    return [
        Remedy(
            name="offload",
            change="keep the optimizer's state in host memory",
            price="each step moves gradients and weights over the host's bus and steps there; "
            f"needs {gigabytes(alone.memory.host)} of host memory per rank",
            fields={"parallelism": offloaded.model_dump(exclude_defaults=True)},
            memory=alone.memory.total,
            fits=alone.fits,
            fits_with_cheaper=together.fits,
        )
    ]


def _adapters(
    workload: Workload, plan: LayoutPlan, current: LayoutPlan, budget: float
) -> list[Remedy]:
    """LoRA and QLoRA: the base frozen, adapters of rank 16 trained."""
    architecture = workload.architecture
    if architecture.moe or architecture.latent_attention:
        return []
    split = plan.parallelism.tensor * plan.parallelism.pipeline
    adapters = 16 * lora_adapter_parameters(architecture, LORA_RANK) / split
    base_bytes = STATE_BYTES["fp32" if workload.precision == "fp32" else "mixed"][0]
    shards = plan.parallelism.data if plan.parallelism.zero == 3 else 1
    base = plan.memory.weights * shards
    quantised = base / base_bytes * NF4_BITS / 8
    result = []
    for name, weights, how in (
        ("lora", base, "16-bit base"),
        ("qlora", quantised, "4-bit base"),
    ):
        alone, together = (
            round(weights + adapters + p.memory.activations + p.memory.loss)
            for p in (plan, current)
        )
        result.append(
            Remedy(
                name="lora" if name == "lora" else "qlora",
                change=f"fine-tune an existing model with adapters on a {how} instead",
                price="trains adapters only: no way to pretrain from nothing",
                memory=alone,
                fits=alone <= budget,
                fits_with_cheaper=together <= budget,
            )
        )
    return result


def _smaller_batch(
    workload: Workload, plan: LayoutPlan, cheaper: Workload, current: LayoutPlan
) -> list[Remedy]:
    if plan.micro_batch_size == 1:
        return []
    alone = estimate(workload, plan.parallelism, 1)
    together = estimate(cheaper, current.parallelism, 1)
    return [
        Remedy(
            name="smaller_batch",
            change="micro-batches of one sequence",
            price="smaller kernels, which reach less of the peak",
            fields={"training": {"micro_batch_size": 1}},
            memory=alone.memory.total,
            fits=alone.fits,
            fits_with_cheaper=together.fits,
        )
    ]
