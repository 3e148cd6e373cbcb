"""Read and write the training state of single parameters, whatever ZeRO stage shards it.

A parameter's state is three fp32 tensors of its (tensor-parallel) shape: the weights (the master
copy under bf16) and Adam's two moments. ZeRO-1 and 2 hold them as fragments of flat partitions
(`_hp_mapping`), ZeRO-3 the weights too; ZeRO-0 holds them whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from quarterdeck_workers.checkpoint.format import KINDS

MOMENTS = KINDS[1:]


def owners(parameters: Sequence[nn.Parameter], ranks: int) -> list[int]:
    """Which data-parallel rank writes each parameter: the one with the least to write so far."""
    load = [0] * ranks
    result = []
    for parameter in parameters:
        owner = min(range(ranks), key=lambda index: (load[index], index))
        load[owner] += numel(parameter)
        result.append(owner)
    return result


def numel(parameter: nn.Parameter) -> int:
    """Elements of the parameter, also when ZeRO-3 holds only a part of it here."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """Its shape, also when ZeRO-3 holds only a part of it here."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def collect(
    parameters: Sequence[nn.Parameter],
    optimizer: Any,
    group: dist.ProcessGroup | None,
    *,
    replicated: bool = False,
) -> Iterator[dict[str, Tensor] | None]:
    """Every parameter's state in turn: on its owner a tensor by kind, elsewhere None.

    `group` is the data-parallel group (None: there is one rank). Collective: every rank of the
    group walks through to the end. A frozen parameter has weights only. Exact: the fragments are
    added to zeros. `replicated` says that every rank of the group holds everything whole.
    """
    size = dist.get_world_size(group) if group is not None else 1
    me = dist.get_rank(group) if group is not None else 0
    _link(optimizer)
    for parameter, owner in zip(parameters, owners(parameters, size), strict=True):
        state = _local_state(parameter, optimizer)
        if state is not None:
            yield state if owner == me else None
            continue
        gathered = _zero3_state(parameter) if hasattr(parameter, "ds_id") else _fragments(parameter)
        if size > 1 and not replicated and not hasattr(parameter, "ds_id"):
            assert group is not None
            dist.reduce(gathered, dist.get_global_rank(group, owner), group=group)
        if owner != me:
            yield None
            continue
        whole = gathered.view(len(KINDS), *shape(parameter))
        yield dict(zip(KINDS, whole.unbind(0), strict=True))


def _local_state(parameter: nn.Parameter, optimizer: Any) -> dict[str, Tensor] | None:
    """The state of a parameter that is whole here: frozen, or trained without ZeRO."""
    if hasattr(parameter, "ds_id") and parameter.requires_grad:
        return None
    if hasattr(parameter, "ds_id"):
        return {"weights": _gathered_weights(parameter)}
    if not parameter.requires_grad:
        return {"weights": parameter.detach().float()}
    if hasattr(parameter, "_hp_mapping"):
        return None
    moments = optimizer.state.get(parameter, {})
    return {
        "weights": parameter.detach().float(),
        **{kind: moments.get(kind, torch.zeros_like(parameter)).float() for kind in MOMENTS},
    }


def _fragments(parameter: nn.Parameter) -> Tensor:
    """[kinds, elements] with this rank's fragment filled in and zeros elsewhere."""
    result = torch.zeros(len(KINDS), parameter.numel(), device=parameter.device)
    mapping = parameter._hp_mapping  # type: ignore[attr-defined]
    if mapping is not None:
        address = mapping.lp_fragment_address
        part = result.narrow(1, address.start, address.numel)
        part[0].copy_(mapping.hp_fragment.detach())
        for row, kind in enumerate(MOMENTS, start=1):
            part[row].copy_(mapping.optim_fragment[kind])
    return result


def _zero3_state(parameter: nn.Parameter) -> Tensor:
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    rows = [safe_get_full_fp32_param(parameter)]
    rows += [safe_get_full_optimizer_state(parameter, kind) for kind in MOMENTS]
    return torch.stack([row.float().flatten() for row in rows])


def _gathered_weights(parameter: nn.Parameter) -> Tensor:
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter]):
        return parameter.detach().float().clone()


def prepare_moments(optimizer: Any, steps_done: int) -> None:
    """Create Adam's state as it is after `steps_done` steps, with zero moments to fill in."""
    base = getattr(optimizer, "optimizer", optimizer)
    for master in masters(optimizer):
        base.state[master] = {
            "step": torch.tensor(float(steps_done), dtype=torch.float32),
            **{kind: torch.zeros_like(master.detach()) for kind in MOMENTS},
        }
    _link(optimizer)


def masters(optimizer: Any) -> list[Tensor]:
    """The tensors that Adam steps on: this rank's flat fp32 partitions, or the parameters
    themselves with ZeRO-0."""
    flat = getattr(optimizer, "fp32_partitioned_groups_flat", None)
    if flat is not None:  # ZeRO-3, whose groups are empty between steps
        return list(flat)
    base = getattr(optimizer, "optimizer", optimizer)
    return [parameter for group in base.param_groups for parameter in group["params"]]


def whole_weights(parameter: nn.Parameter) -> Tensor:
    """A flat view of the fp32 weights that Adam steps on, where nothing is sharded.

    After writing to it: `follow_master`.
    """
    mapping = getattr(parameter, "_hp_mapping", None)
    master = parameter if mapping is None else mapping.hp_fragment
    flat: Tensor = master.detach().view(-1)
    return flat


def whole_moments(parameters: Sequence[nn.Parameter], optimizer: Any) -> list[Tensor]:
    """Flat views of trained parameters' moments, where nothing is sharded and Adam has stepped."""
    _link(optimizer)
    moments = []
    for parameter in parameters:
        mapping = getattr(parameter, "_hp_mapping", None)
        state = optimizer.state[parameter] if mapping is None else mapping.optim_fragment
        moments += [state[kind].view(-1) for kind in MOMENTS]
    return moments


def follow_master(parameter: nn.Parameter) -> None:
    """Set the weights that compute from the fp32 ones, where these are apart."""
    mapping = getattr(parameter, "_hp_mapping", None)
    if mapping is not None:
        parameter.detach().view(-1).copy_(mapping.hp_fragment.detach())


def _link(optimizer: Any) -> None:
    """Connect parameters with the moments of their fragments.

    DeepSpeed does it once, after the first group of parameters has stepped, when the moments of
    the others do not exist yet: so again.
    """
    if hasattr(optimizer, "_lazy_init_hp_params_optimizer_state"):
        optimizer._hp_optimizer_states_linked = False
        optimizer._lazy_init_hp_params_optimizer_state()


def restore(parameter: nn.Parameter, state: dict[str, Tensor], optimizer: Any) -> None:
    """Set weights and moments (tensors of the parameter's shape). After `prepare_moments`."""
    with torch.no_grad():
        if hasattr(parameter, "ds_id"):
            _restore_zero3(parameter, state)
            return
        parameter.copy_(state["weights"])
        if not parameter.requires_grad:
            return
        if not hasattr(parameter, "_hp_mapping"):
            for kind in MOMENTS:
                optimizer.state[parameter][kind].copy_(state[kind])
            return
        mapping = parameter._hp_mapping
        if mapping is None:
            return
        address = mapping.lp_fragment_address

        def part(kind: str) -> Tensor:
            return state[kind].flatten().narrow(0, address.start, address.numel)

        mapping.hp_fragment.copy_(part("weights"))
        for kind in MOMENTS:
            mapping.optim_fragment[kind].copy_(part(kind))


def _restore_zero3(parameter: Any, state: dict[str, Tensor]) -> None:
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
        parameter.copy_(state["weights"])
    if not parameter.requires_grad:
        return
    sharded = parameter._z3_optimizer
    for kind in KINDS:
        key = None if kind == KINDS[0] else kind
        partition, _ = sharded._get_fp32_opt_state_partition(
            parameter, release_swap_buffers=False, optim_state_key=key
        )
        # The last rank's partition may be longer than what is left: the rest is padding.
        start = partition.numel() * sharded._get_param_partition_rank(parameter)
        part = state[kind].flatten()[start : start + partition.numel()]
        partition[: part.numel()].copy_(part)
