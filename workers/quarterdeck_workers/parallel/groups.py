"""Process groups of a run: rendezvous, the tensor group, and DeepSpeed's grid."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from quarterdeck_workers.parallel.layout import Layout

RENDEZVOUS_TIMEOUT = timedelta(minutes=5)
COLLECTIVE_TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True)
class TensorGroup:
    """The ranks that split each layer among themselves. `group` is None where there is one."""

    size: int = 1
    index: int = 0
    group: dist.ProcessGroup | None = None
    sequence: bool = False
    """Norms and residuals hold 1/size of the sequence each (Megatron sequence parallelism)."""
    copies: dist.ProcessGroup | None = None
    """The ranks that hold the same key/value heads, where there are fewer heads than ranks."""


def local_device(local_rank: int) -> torch.device:
    """This rank's accelerator, or the CPU where there is none."""
    if torch.cuda.is_available():
        return torch.device("cuda", local_rank % torch.cuda.device_count())
    return torch.device("cpu")


def join(layout: Layout, *, local_rank: int, master_address: str, master_port: int) -> torch.device:
    """Meet the other ranks and initialise torch's and DeepSpeed's default group.

    Sets the rendezvous variables that DeepSpeed reads from the environment. One computing
    thread per CPU rank: with more, ranks that share cores slow each other down many times over.
    """
    os.environ.update(
        RANK=str(layout.rank), WORLD_SIZE=str(layout.ranks), LOCAL_RANK=str(local_rank),
        MASTER_ADDR=master_address, MASTER_PORT=str(master_port),
        DS_ACCELERATOR="cuda" if torch.cuda.is_available() else "cpu",
    )  # fmt: skip
    device = local_device(local_rank)
    if device.type == "cpu":
        torch.set_num_threads(1)
    import deepspeed
    from deepspeed.ops import __compatible_ops__

    # The shared-memory collectives of DeepSpeed are compiled at first use: most of a minute.
    __compatible_ops__["deepspeed_shm_comm"] = False
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=f"tcp://{master_address}:{master_port}",
        rank=layout.rank,
        world_size=layout.ranks,
        timeout=RENDEZVOUS_TIMEOUT,
    )
    deepspeed.init_distributed(
        dist_backend="nccl" if device.type == "cuda" else "gloo",
        auto_mpi_discovery=False,
        verbose=False,
        timeout=COLLECTIVE_TIMEOUT,
        dist_init_required=None,
    )
    return device


def tensor_group(layout: Layout, *, sequence: bool, kv_heads: int) -> TensorGroup:
    """Make the tensor groups of all ranks; answers this rank's. Collective."""
    if layout.tensor == 1:
        return TensorGroup()
    groups = layout.tensor_groups()
    mine = _group_of(layout.rank, groups)
    copies: dist.ProcessGroup | None = None
    if layout.tensor > kv_heads and layout.tensor % kv_heads == 0:
        size = layout.tensor // kv_heads
        parts = [group[i : i + size] for group in groups for i in range(0, layout.tensor, size)]
        copies = _group_of(layout.rank, parts)
    return TensorGroup(layout.tensor, layout.slice, mine, sequence, copies)


def data_group(layout: Layout) -> dist.ProcessGroup | None:
    """Make the data-parallel groups; answers this rank's, None where it is alone. Collective."""
    return _group_of(layout.rank, layout.data_groups()) if layout.data > 1 else None


def _group_of(rank: int, groups: list[list[int]]) -> dist.ProcessGroup | None:
    """Every rank takes part in making every group, and keeps its own."""
    mine: dist.ProcessGroup | None = None
    for ranks in groups:
        group = dist.new_group(ranks)
        if rank in ranks:
            mine = group
    return mine
