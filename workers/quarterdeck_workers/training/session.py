"""Everything that a training run is made of, put together once per rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist

from quarterdeck.artifacts import ArtifactStore
from quarterdeck.planner.flops import training_flops_per_token
from quarterdeck.planner.hardware import builtin_catalogue
from quarterdeck.planner.memory import rank_memory
from quarterdeck.planner.parameters import count_parameters
from quarterdeck.specs.architecture import Architecture
from quarterdeck.specs.kinds import PretrainSpec
from quarterdeck.specs.training import Parallelism, Precision
from quarterdeck_workers.data.loader import TokenLoader
from quarterdeck_workers.parallel.groups import data_group, join, tensor_group
from quarterdeck_workers.parallel.layout import Layout
from quarterdeck_workers.rank.context import RankContext
from quarterdeck_workers.training.engine import Engine, ModelPlan, make_engine
from quarterdeck_workers.training.errors import WrongData
from quarterdeck_workers.training.inputs import Inputs
from quarterdeck_workers.training.layouts import parallelism_of
from quarterdeck_workers.training.model import Builder, plan_model
from quarterdeck_workers.training.recipe import Recipe, make_recipe
from quarterdeck_workers.training.rounds import Rounds


@dataclass
class Session:
    """One rank's view of a training run."""

    context: RankContext
    spec: PretrainSpec
    parallelism: Parallelism
    precision: Precision
    architecture: Architecture
    vocab_size: int
    layout: Layout
    device: torch.device
    recipe: Recipe
    loader: TokenLoader
    plan: ModelPlan
    engine: Engine
    data_group: dist.ProcessGroup | None
    rounds: Rounds | None
    """Where replicas train by themselves between meetings."""
    store: ArtifactStore
    parameters: int
    flops_per_token: float
    peak_flops: float | None
    expected_activations: int
    """Bytes on this rank, by the planner."""

    @property
    def counts_losses(self) -> bool:
        """Whether this rank is the one that reports the losses of its samples."""
        return self.layout.is_last_stage and self.layout.slice == 0

    @property
    def layout_numbers(self) -> dict[str, int]:
        """The layout as a manifest records it."""
        degrees = self.parallelism
        return {
            "data": degrees.data, "tensor": degrees.tensor, "pipeline": degrees.pipeline,
            "zero": degrees.zero,
        }  # fmt: skip


def open_session(context: RankContext, spec: PretrainSpec, inputs: Inputs) -> Session:
    """Meet the other ranks and build this rank's part of model and optimizer. Collective.

    Raises ValueError naming the field for what does not fit together, WrongData when the data
    does not last for the steps.
    """
    parallelism = parallelism_of(spec, context.world_size)
    layout = Layout.of(parallelism, context.rank)
    architecture, vocab_size, loader = inputs.architecture, inputs.vocab_size, inputs.loader
    parameters = count_parameters(architecture, vocab_size).total
    recipe = make_recipe(
        spec.training, parallelism, parameters=parameters, dataset_tokens=loader.tokens
    )
    check_lasts(recipe, loader)
    context.phase("meeting the other ranks")
    device = join(
        layout, local_rank=context.local_rank, master_address=context.master_address,
        master_port=context.master_port,
    )  # fmt: skip
    precision = spec.precision or ("fp32" if device.type == "cpu" else "bf16")
    group = tensor_group(layout, sequence=parallelism.sequence, kv_heads=architecture.kv_heads)
    context.phase("building the model")
    builder = Builder(
        architecture, vocab_size, group, device, recipe.seed, tuple(spec.training.freeze)
    )
    recompute = spec.training.activation_checkpointing
    plan = plan_model(
        builder, stages=layout.pipeline, sequence_length=recipe.sequence_length,
        recompute=recompute == "full", domains=loader.domain_names,
    )  # fmt: skip
    apart = spec.sync is not None
    engine = make_engine(plan, layout, parallelism, recipe, precision, apart=apart)
    replicas = data_group(layout)
    rounds = (
        None if spec.sync is None
        else Rounds(spec.sync, engine.module, engine.optimizer, replicas)
    )  # fmt: skip
    return Session(
        context=context, spec=spec, parallelism=parallelism, precision=precision,
        architecture=architecture, vocab_size=vocab_size, layout=layout, device=device,
        recipe=recipe, loader=loader, plan=plan, engine=engine, data_group=replicas, rounds=rounds,
        store=ArtifactStore(context.order.artifacts_uri, context.order.artifacts_options),
        parameters=parameters,
        flops_per_token=training_flops_per_token(architecture, recipe.sequence_length, vocab_size),
        peak_flops=_peak_flops(spec, precision, device),
        expected_activations=_expected_activations(
            architecture, vocab_size, parallelism, recipe, precision, recompute, layout.stage
        ),
    )  # fmt: skip


def check_lasts(recipe: Recipe, loader: TokenLoader) -> None:
    """Raises WrongData when bounded passes end before the training does."""
    needed = recipe.batches.samples_through(recipe.steps)
    available = loader.order.available
    if available is not None and needed > available:
        raise WrongData(
            f"{recipe.steps} steps of {recipe.global_batch_size} sequences need {needed} samples, "
            f"but the datasets allow {available}: train for fewer steps or allow more passes"
        )


def _peak_flops(spec: PretrainSpec, precision: Precision, device: torch.device) -> float | None:
    """FLOP/s of one accelerator from the catalogue; None on CPU, whose slots have no honest peak,
    and for hardware that the catalogue does not know."""
    if device.type != "cuda":
        return None
    name = spec.resources.accelerator or torch.cuda.get_device_name(device).replace(" ", "-")
    try:
        return builtin_catalogue().find(name).peak_of(precision)
    except ValueError:
        return None


def _expected_activations(
    architecture: Architecture,
    vocab_size: int,
    parallelism: Parallelism,
    recipe: Recipe,
    precision: Precision,
    recompute: Literal["none", "full"],
    stage: int,
) -> int:
    parts = rank_memory(
        architecture, vocab_size, parallelism, sequence_length=recipe.sequence_length,
        micro_batch_size=recipe.micro_batch_size, micro_batches=recipe.micro_batches,
        precision=precision, recompute=recompute,
    )[stage]  # fmt: skip
    return parts.activations + parts.loss
