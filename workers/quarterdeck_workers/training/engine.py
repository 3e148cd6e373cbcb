"""DeepSpeed as the engine of a step: 1F1B pipelines with ZeRO-1, or ZeRO-0 to 3 without.

Which stage runs, and why it may differ from the spec's: DeepSpeed's pipeline neither clips nor
counts split parameters rightly without ZeRO, and its bf16 without ZeRO keeps no fp32 copy of the
weights. ZeRO-1 does both, and with one data-parallel rank it shards nothing, so 0 becomes 1 in
those cases.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.pipe import LayerSpec, PipelineModule, TiedLayerSpec
from deepspeed.runtime.pipe.topology import PipelineParallelGrid, PipeModelDataParallelTopology
from torch import Tensor, nn

from quarterdeck.specs.training import Parallelism, Precision
from quarterdeck_workers.data.loader import Batch
from quarterdeck_workers.parallel.layout import Layout
from quarterdeck_workers.training.losses import Loss
from quarterdeck_workers.training.recipe import Recipe

BUCKET = 500_000_000
"""Elements of one gradient reduction at most; smaller models reduce everything at once."""


@dataclass(frozen=True)
class LayerPlan:
    """One layer of the model, built only by the ranks that hold it.

    Layers with the same `tied` key share one module; `forward` then says what this use of it
    computes.
    """

    build: Callable[[], nn.Module]
    tied: str | None = None
    tied_weight: str = "weight"
    forward: Callable[[nn.Module, Tensor], Tensor] | None = None


@dataclass(frozen=True)
class ModelPlan:
    """All layers in order, and `boundaries`: stage i holds layers[boundaries[i]:boundaries[i+1]].

    `loss` turns the last layer's output into the mean loss of a micro-batch.
    """

    layers: Sequence[LayerPlan]
    boundaries: Sequence[int]
    loss: Loss


class Engine(Protocol):
    """What the training loop needs of a backend."""

    @property
    def module(self) -> nn.Module:
        """This rank's part of the model."""

    @property
    def optimizer(self) -> Any:
        """DeepSpeed's optimizer (torch's own with ZeRO-0)."""

    def train_step(
        self, batches: Iterator[Batch], micro_batches: int, learning_rate: float
    ) -> float:
        """One optimizer step over this rank's micro-batches, so many; answers the gradient norm
        before clipping, over all parameters of the whole model. Collective."""


def effective_zero(parallelism: Parallelism, precision: Precision) -> int:
    """The ZeRO stage that runs: see the module's text."""
    if parallelism.zero == 0 and (
        precision == "bf16" or parallelism.pipeline > 1 or parallelism.tensor > 1
    ):
        return 1
    return parallelism.zero


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """AdamW's groups: matrices decay, vectors (norms and biases) do not."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    matrices = [p for p in trainable if _rank(p) >= 2]
    vectors = [p for p in trainable if _rank(p) < 2]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _rank(parameter: nn.Parameter) -> int:
    return len(getattr(parameter, "ds_shape", parameter.shape))


def _config(
    recipe: Recipe, precision: Precision, zero: int, elements: int, offload: bool = False
) -> dict[str, Any]:
    bucket = min(BUCKET, max(elements, 1))
    # Torch's AdamW then steps on the host, instead of DeepSpeed's own, which needs a compiler.
    offloaded = {"offload_optimizer": {"device": "cpu"}} if offload else {}
    return {
        "train_micro_batch_size_per_gpu": recipe.micro_batch_size,
        "gradient_accumulation_steps": recipe.micro_batches,
        "gradient_clipping": recipe.clip if zero > 0 else 0.0,
        "steps_per_print": None,
        "bf16": {"enabled": precision == "bf16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        # Stages would send 1/tensor of each activation and gather it on arrival, taking for
        # granted that tensor ranks hold the same: under sequence parallelism they do not.
        "pipeline": {"pipe_partitioned": False, "grad_partitioned": False},
        "zero_optimization": {
            "stage": zero,
            "overlap_comm": False,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
            "stage3_param_persistence_threshold": 0,
            **offloaded,
        },
    }


def _optimizer(module: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        parameter_groups(module, recipe.weight_decay),
        lr=recipe.learning_rate,
        betas=recipe.betas,
        eps=recipe.eps,
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep DeepSpeed's banners out of the job's log; errors still raise."""
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    with contextlib.redirect_stdout(io.StringIO()):
        yield


class _Called(nn.Module):
    """A layer that is used by another function than its own forward."""

    def __init__(self, inner: nn.Module, call: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.inner = inner
        self._call = call

    def forward(self, value: Tensor) -> Tensor:
        return self._call(self.inner, value)


class _Spec(LayerSpec):  # type: ignore[misc]
    def __init__(self, plan: LayerPlan) -> None:
        super().__init__(nn.Module)
        self._plan = plan

    def build(self, log: bool = False) -> nn.Module:
        module, forward = self._plan.build(), self._plan.forward
        return module if forward is None else _Called(module, forward)


class _TiedSpec(TiedLayerSpec):  # type: ignore[misc]
    def __init__(self, plan: LayerPlan) -> None:
        super().__init__(
            plan.tied, nn.Module, forward_fn=plan.forward, tied_weight_attr=plan.tied_weight
        )
        self._plan = plan

    def build(self, log: bool = False) -> nn.Module:
        return self._plan.build()


class _Stages(PipelineModule):  # type: ignore[misc]
    """A pipeline whose stages are those that the planner dealt out."""

    def __init__(self, plan: ModelPlan, topology: PipeModelDataParallelTopology) -> None:
        self._boundaries = list(plan.boundaries)
        super().__init__(
            [_TiedSpec(layer) if layer.tied else _Spec(layer) for layer in plan.layers],
            topology=topology,
            loss_fn=plan.loss,
        )

    def _partition_layers(self, method: str = "uniform") -> None:
        stage = self._topo.get_coord(self.global_rank).pipe
        self.parts = self._boundaries
        self._set_bounds(start=self.parts[stage], stop=self.parts[stage + 1])


class Whole(nn.Module):
    """All layers on one stage, tied ones sharing their module."""

    def __init__(self, plan: ModelPlan) -> None:
        super().__init__()
        self.parts = nn.ModuleList()
        self._calls: list[Callable[[Tensor], Tensor]] = []
        tied: dict[str, nn.Module] = {}
        for layer in plan.layers:
            module = tied.get(layer.tied) if layer.tied else None
            if module is None:
                module = layer.build()
                self.parts.append(module)
                if layer.tied:
                    tied[layer.tied] = module
            self._calls.append(_bind(layer, module))

    def forward(self, value: Tensor) -> Tensor:
        for call in self._calls:
            value = call(value)
        return value


def _bind(layer: LayerPlan, module: nn.Module) -> Callable[[Tensor], Tensor]:
    forward = layer.forward
    if forward is None:
        return module
    return lambda value: forward(module, value)


class PipelineBackend:
    """1F1B over pipeline stages, with ZeRO-1 over the data-parallel group."""

    def __init__(
        self,
        plan: ModelPlan,
        layout: Layout,
        recipe: Recipe,
        precision: Precision,
        *,
        apart: bool = False,
    ) -> None:
        topology = PipeModelDataParallelTopology(
            num_pp=layout.pipeline, num_mp=layout.tensor, num_dp=layout.data
        )
        with quiet():
            stages = _Stages(plan, topology)
            if apart:
                _part(stages.mpu())
            elements = _trainable(stages, layout)
            self._engine, self.optimizer, _, _ = deepspeed.initialize(
                model=stages,
                optimizer=_optimizer(stages, recipe),
                config=_config(recipe, precision, 1, elements),
                dist_init_required=False,
            )

    @property
    def module(self) -> nn.Module:
        stages: nn.Module = self._engine.module
        return stages

    def train_step(
        self, batches: Iterator[Batch], micro_batches: int, learning_rate: float
    ) -> float:
        _set_rate(self.optimizer, learning_rate)
        _set_micro_batches(self._engine, micro_batches)
        self._engine.train_batch((b.inputs, (b.targets, b.domains)) for b in batches)
        return float(self._engine.get_global_grad_norm())


class ShardedBackend:
    """No pipeline: ZeRO-0, 1, 2 or 3 over the data-parallel group; with `offload` the
    optimizer's state is in host memory and steps there."""

    def __init__(
        self,
        plan: ModelPlan,
        layout: Layout,
        recipe: Recipe,
        precision: Precision,
        zero: int,
        *,
        offload: bool = False,
        apart: bool = False,
    ) -> None:
        self._loss = plan.loss
        self._clip = recipe.clip if zero == 0 else None
        topology = PipeModelDataParallelTopology(num_pp=1, num_mp=layout.tensor, num_dp=layout.data)
        with quiet():
            grid = PipelineParallelGrid(topology)
            if apart:
                _part(grid)
            whole = Whole(plan)
            elements = _trainable(whole, layout)
            self._engine, self.optimizer, _, _ = deepspeed.initialize(
                model=whole,
                optimizer=_optimizer(whole, recipe),
                config=_config(recipe, precision, zero, elements, offload),
                mpu=grid,
                dist_init_required=False,
            )

    @property
    def module(self) -> nn.Module:
        whole: nn.Module = self._engine.module
        return whole

    def train_step(
        self, batches: Iterator[Batch], micro_batches: int, learning_rate: float
    ) -> float:
        _set_rate(self.optimizer, learning_rate)
        _set_micro_batches(self._engine, micro_batches)
        norm = 0.0
        for number, batch in enumerate(batches, start=1):
            # DeepSpeed counts micro-batches over all steps, which tells nothing of the end of one
            # when their number changes.
            self._engine.set_gradient_accumulation_boundary(number == micro_batches)
            logits = self._engine(batch.inputs)
            self._engine.backward(self._loss(logits, (batch.targets, batch.domains)))
            if self._clip is not None and number == micro_batches:
                norm = self._clip_whole(self._clip)
            self._engine.step()
        return norm if self._clip is not None else float(self._engine.get_global_grad_norm())

    def _clip_whole(self, limit: float) -> float:
        """Clip here, where every gradient is whole: DeepSpeed without ZeRO tells no norm."""
        parameters = [p for p in self._engine.module.parameters() if p.grad is not None]
        return float(nn.utils.clip_grad_norm_(parameters, limit or float("inf")))


def make_engine(
    plan: ModelPlan,
    layout: Layout,
    parallelism: Parallelism,
    recipe: Recipe,
    precision: Precision,
    *,
    apart: bool = False,
) -> Engine:
    """The backend for a layout; with `apart` every data-parallel replica steps by itself.

    Collective. Raises ValueError when a stage has nothing to train.
    """
    if parallelism.pipeline > 1:
        return PipelineBackend(plan, layout, recipe, precision, apart=apart)
    zero = effective_zero(parallelism, precision)
    offload = parallelism.offload == "optimizer"
    return ShardedBackend(plan, layout, recipe, precision, zero, offload=offload, apart=apart)


def _part(grid: PipelineParallelGrid) -> None:
    """Let DeepSpeed take each replica for the only one: nothing is reduced or sharded over the
    data-parallel group."""
    grid.data_parallel_size = 1
    grid.dp_group = [grid.global_rank]
    grid.dp_proc_group = dist.new_group(grid.dp_group, use_local_synchronization=True)


def _trainable(module: nn.Module, layout: Layout) -> int:
    count = sum(p.numel() for p in module.parameters() if p.requires_grad)
    if count == 0:
        raise ValueError(
            f"training.freeze leaves pipeline stage {layout.stage} without trainable parameters: "
            "freeze less, or use fewer stages"
        )
    return count


def _set_rate(optimizer: Any, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def _set_micro_batches(engine: Any, count: int) -> None:
    """How many micro-batches the next step adds up."""
    if engine.gradient_accumulation_steps() == count:
        return
    engine.set_train_batch_size(
        count * engine.train_micro_batch_size_per_gpu() * engine.dp_world_size
    )
    if hasattr(engine.optimizer, "gradient_accumulation_steps"):
        # ZeRO took the number down when it was made: offloaded gradients' norms depend on it.
        engine.optimizer.gradient_accumulation_steps = count
