"""Any layout computes what one process computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from quarterdeck.specs.kinds import PretrainSpec
from quarterdeck_workers.data.loader import DomainSource, TokenLoader
from quarterdeck_workers.models.initialisation import build_model
from quarterdeck_workers.training.engine import parameter_groups
from quarterdeck_workers.training.gang import Gang
from quarterdeck_workers.training.recipe import make_recipe, sample_indices
from quarterdeck_workers.training.workshop import GPT2, LLAMA

Difference = Callable[[Gang, Gang], float]


def plain_losses(trainings: Any, architecture: dict[str, Any], **training: Any) -> dict[int, float]:
    """The same training by torch alone: no DeepSpeed, no process group, whole batches."""
    order = trainings.workshop.order("plain", architecture=architecture, **training)
    spec = PretrainSpec.model_validate(order.spec)
    shards = trainings.workshop.artifacts / "code/train"
    loader = TokenLoader(
        [DomainSource("code", shards)], sequence_length=spec.training.sequence_length,
        seed=spec.training.seed,
    )  # fmt: skip
    assert not isinstance(spec.parallelism, str)
    recipe = make_recipe(spec.training, spec.parallelism, parameters=1, dataset_tokens=1)
    model = build_model(spec.architecture, 384, seed=spec.training.seed)
    optimizer = torch.optim.AdamW(
        parameter_groups(model, recipe.weight_decay), betas=recipe.betas, eps=recipe.eps
    )
    losses = {}
    for step in range(1, recipe.steps + 1):
        batch = loader.batch(
            index
            for micro in range(recipe.micro_batches_at(step))
            for index in sample_indices(recipe, step=step, micro_batch=micro, replica=0)
        )
        logits = model(batch.inputs)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate_at(step)
        optimizer.step()
        optimizer.zero_grad()
        losses[step] = float(loss.detach())
    return losses


@pytest.mark.parametrize("name", ["one", "ramp"])
def test_one_process_equals_plain_torch(trainings: Any, name: str) -> None:
    given = trainings.shared_orders[name]
    ramp = {"batch_ramp": given["batch_ramp"]} if "batch_ramp" in given else {}
    plain = plain_losses(trainings, LLAMA, **ramp)
    ours = trainings.shared(name).metric("loss")
    assert ours.keys() == plain.keys()
    assert max(abs(ours[step] - plain[step]) for step in plain) < 1e-5
    assert plain[12] < plain[1] - 0.5


def test_cube_equals_one_process(trainings: Any, difference: Difference) -> None:
    one, cube = trainings.shared("one"), trainings.shared("cube")
    assert difference(one, cube) < 1e-4
    norms = (one.metric("grad_norm"), cube.metric("grad_norm"))
    assert max(abs(norms[0][step] - norms[1][step]) for step in norms[0]) < 1e-3


@pytest.mark.parametrize(
    "layout",
    [
        {"data": 2, "zero": 0},
        {"data": 2, "zero": 2},
        {"data": 2, "zero": 3},
        {"tensor": 2, "sequence": True},
    ],
    ids=str,
)
def test_other_layouts_equal_one_process(
    trainings: Any, difference: Difference, layout: dict[str, Any]
) -> None:
    name = "-".join(f"{axis}-{value}" for axis, value in layout.items()).lower()
    gang = trainings.run(name, parallelism=layout, steps=6, micro_batch_size=4)
    assert gang.failures == []
    one = trainings.shared("six")
    assert difference(one, gang) < 1e-4


def test_tied_learned_positions_with_sequence_parallelism(
    trainings: Any, difference: Difference
) -> None:
    """GPT-2 shares its embedding between the first and the last stage, and has biases that
    every rank of a tensor group holds whole."""
    layout = {"tensor": 2, "pipeline": 2, "sequence": True}
    split = trainings.run("gpt2-split", architecture=GPT2, parallelism=layout)
    assert split.failures == []
    assert difference(trainings.shared("gpt2"), split) < 1e-4
    plain = plain_losses(trainings, GPT2)
    assert max(abs(split.metric("loss")[step] - plain[step]) for step in plain) < 1e-4


def test_fewer_key_value_heads_than_tensor_ranks(trainings: Any, difference: Difference) -> None:
    """Each head is held by two ranks, and resumes on a layout that holds it once."""
    architecture = LLAMA | {"num_key_value_heads": 1}
    order = {"architecture": architecture, "steps": 8}
    one = trainings.run("mqa-one", **order)
    two = trainings.run(
        "mqa-two", parallelism={"data": 2, "tensor": 2, "zero": 3, "sequence": True},
        checkpoints={"every": 4}, **order,
    )  # fmt: skip
    assert two.failures == []
    assert difference(one, two) < 1e-4
    manifest = two.of("checkpoint")[0]["manifest"]
    assert manifest["step"] == 4
    back = trainings.run("mqa-back", resume=manifest, **order)
    assert back.failures == []
    assert difference(one, back) < 1e-4


def test_bf16_in_a_cube_equals_bf16_in_one_process(trainings: Any, difference: Difference) -> None:
    one = trainings.run("half-one", precision="bf16", parallelism={"zero": 0})
    cube = trainings.run(
        "half-cube", precision="bf16", parallelism={"data": 2, "tensor": 2, "pipeline": 2}
    )
    assert one.failures == cube.failures == []
    assert 0 < difference(one, cube) < 2e-3


def test_recomputing_activations_changes_nothing(trainings: Any, difference: Difference) -> None:
    again = trainings.run(
        "recomputed", parallelism={"tensor": 2}, activation_checkpointing="full", steps=6
    )
    assert again.failures == []
    assert difference(trainings.shared("six"), again) < 1e-5
