"""What ranks send each other: elements per rank and step, and over which links.

Ring algorithms are assumed (Rajbhandari et al. 2020; Narayanan et al. 2021). Multiply elements
by the bytes of the data type.
"""

from __future__ import annotations


def data_parallel_elements(parameters: float, zero: int, micro_batches: int = 1) -> float:
    """Per rank and step: 2Ψ (reduce-scatter and all-gather), with ZeRO-3 3Ψ.

    ZeRO-3 gathers the weights twice for every micro-batch: (2m + 1)Ψ.
    """
    return (2 * micro_batches + 1 if zero == 3 else 2) * parameters


def tensor_parallel_elements(batch: int, sequence: int, hidden: int, tensor: int) -> float:
    """Per rank, layer and micro-batch: four all-reduces, 8bsh(t−1)/t; sequence parallelism
    moves the same in eight halves."""
    return 8 * batch * sequence * hidden * (tensor - 1) / tensor


def pipeline_elements(batch: int, sequence: int, hidden: int) -> int:
    """Per boundary, micro-batch and direction: bsh."""
    return batch * sequence * hidden


def lora_gradient_share(trainable: int, full: int) -> float:
    """LoRA's gradient traffic as a share of full training's: both are 2 × what is trained."""
    return data_parallel_elements(trainable, 1) / data_parallel_elements(full, 1)


def data_group_in_host(data: int, tensor: int, ranks_per_host: int) -> bool:
    """Whether a data-parallel group stays inside a host: it spans data × tensor neighbours in
    the order rank = (pipeline·data + d)·tensor + t."""
    return ranks_per_host % (data * tensor) == 0


def pipeline_in_host(data: int, tensor: int, pipeline: int, ranks_per_host: int) -> bool:
    """Whether all stages share a host."""
    return data * tensor * pipeline <= ranks_per_host
