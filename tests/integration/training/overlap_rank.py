"""One rank of two: a split decoder layer's gradients, and the order of what their pass does.

Run as `overlap_rank.py RANK RENDEZVOUS-FILE`; prints one JSON object.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from quarterdeck.specs.architecture import Architecture
from quarterdeck_workers.models.decoder import DecoderLayer
from quarterdeck_workers.parallel.collectives import SEQUENCE, start_gather, start_reduce_scatter
from quarterdeck_workers.parallel.collectives import sum_over as add
from quarterdeck_workers.parallel.groups import TensorGroup
from quarterdeck_workers.parallel.parallelize import parallelize_block

LLAMA = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
GPT2 = {
    "model_type": "gpt2", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1,
    "num_attention_heads": 4, "max_position_embeddings": 64, "position_embedding": "learned",
    "norm": "layernorm", "activation": "gelu", "qkv_bias": True, "attention_output_bias": True,
    "mlp_bias": True, "tie_word_embeddings": True,
}  # fmt: skip
events: list[str] = []


class Copy(torch.autograd.Function):
    """How a split layer was entered before: identity or gather, the sum after all gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, group: TensorGroup) -> Tensor:
        ctx.group = group
        return start_gather(value, group, SEQUENCE)() if group.sequence else value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        if ctx.group.sequence:
            return start_reduce_scatter(gradients[0], ctx.group, SEQUENCE)(), None
        return add(gradients[0], ctx.group.group), None


class OneByOne:
    """Each projection by itself, behind one `Copy`."""

    def __init__(self, group: TensorGroup) -> None:
        self.group = group

    def __call__(self, value: Tensor, projections: tuple[nn.Linear, ...]) -> list[Tensor]:
        entered = Copy.apply(value, self.group)
        return [functional.linear(entered, layer.weight, layer.bias) for layer in projections]


def layer_of(shape: dict[str, Any], group: TensorGroup, dtype: torch.dtype) -> DecoderLayer:
    torch.manual_seed(5 + group.index)
    layer = DecoderLayer(Architecture.model_validate(shape))
    parallelize_block(layer, group)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return layer.to(dtype)


def gradients(layer: DecoderLayer, group: TensorGroup, dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(9)
    length = 16 // group.size if group.sequence else 16
    value = torch.randn(3, length, 64).to(dtype).requires_grad_()
    output = layer(value)
    events.clear()
    output.backward(torch.randn_like(output))
    return [value.grad, *(p.grad for p in layer.parameters())]  # type: ignore[list-item]


def same(shape: dict[str, Any], group: TensorGroup, dtype: torch.dtype) -> bool:
    layers = [layer_of(shape, group, dtype) for _ in range(2)]
    layers[1].attention.project = OneByOne(group)
    layers[1].feed_forward.project = OneByOne(group)
    first, second = (gradients(layer, group, dtype) for layer in layers)
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


class Recorder(TorchDispatchMode):
    """Notes every matrix product by its result's shape."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.mm.default:
            events.append("mm {}x{}".format(*result.shape))
        return result


def record_collectives() -> None:
    """Note when a collective is started and when it is waited for."""

    def recorded(name: str, function: Any) -> Any:
        def call(*arguments: Any, **keywords: Any) -> Any:
            events.append(f"start {name}")
            work = function(*arguments, **keywords)
            if work is None:
                events.append(f"wait {name}")
                return None
            return Waited(name, work)

        return call

    for name in ("all_reduce", "all_gather", "reduce_scatter"):
        setattr(dist, name, recorded(name, getattr(dist, name)))


class Waited:
    def __init__(self, name: str, work: Any) -> None:
        self.name, self.work = name, work

    def wait(self) -> None:
        self.work.wait()
        events.append(f"wait {self.name}")


def order(shape: dict[str, Any], group: TensorGroup) -> list[str]:
    layer = layer_of(shape, group, torch.float32)
    with Recorder():
        gradients(layer, group, torch.float32)
    return list(events)


def main(rank: int, file: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    result: dict[str, Any] = {"same": {}, "order": {}}
    groups = [TensorGroup(2, rank, dist.group.WORLD, sequence) for sequence in (False, True)]
    for group in groups:
        for name, shape in (("llama", LLAMA), ("gpt2", GPT2)):
            for dtype in (torch.float32, torch.bfloat16):
                key = f"{name} {dtype} sequence={group.sequence}"
                result["same"][key] = same(shape, group, dtype)
    record_collectives()
    for group in groups:
        result["order"][str(group.sequence)] = order(LLAMA, group)
    print(json.dumps(result), flush=True)
    dist.destroy_process_group()
    # torch may abort a process at its end while something still holds the group.
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
