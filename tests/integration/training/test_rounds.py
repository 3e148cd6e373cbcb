"""Replicas that train by themselves and meet every so many steps."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from quarterdeck.specs.kinds import PretrainSpec
from quarterdeck.specs.training import Parallelism
from quarterdeck_workers.data.loader import DomainSource, TokenLoader
from quarterdeck_workers.models.initialisation import build_model
from quarterdeck_workers.training.engine import parameter_groups
from quarterdeck_workers.training.gang import Controls, Gang, run_gang
from quarterdeck_workers.training.recipe import make_recipe, sample_indices

COUNTED = "quarterdeck_workers.training.workshop:count_reductions"
AVERAGE = {"every": 4}
NESTEROV = {"every": 4, "outer": {"method": "nesterov", "learning_rate": 0.7, "momentum": 0.9}}
TWO = {"data": 2, "zero": 0}
Difference = Callable[[Gang, Gang], float]


def plain_losses(trainings: Any, sync: dict[str, Any], **training: Any) -> dict[int, float]:
    """The same by torch alone: two models in one process, the outer step is torch's SGD."""
    order = trainings.workshop.order("plain-rounds", **training)
    spec = PretrainSpec.model_validate(order.spec)
    loader = TokenLoader(
        [DomainSource("code", trainings.workshop.artifacts / "code/train")],
        sequence_length=spec.training.sequence_length, seed=spec.training.seed,
    )  # fmt: skip
    recipe = make_recipe(spec.training, Parallelism(data=2), parameters=1, dataset_tokens=1)
    shared = build_model(spec.architecture, 384, seed=spec.training.seed)
    replicas = [copy.deepcopy(shared) for _ in range(2)]
    inner = [
        torch.optim.AdamW(
            parameter_groups(model, recipe.weight_decay), betas=recipe.betas, eps=recipe.eps
        )
        for model in replicas
    ]
    numbers = sync.get("outer", {"learning_rate": 1.0, "momentum": 0.0})
    outer = torch.optim.SGD(
        shared.parameters(), lr=numbers["learning_rate"], momentum=numbers["momentum"],
        nesterov=numbers["momentum"] > 0,
    )  # fmt: skip
    losses = {}
    for step in range(1, recipe.steps + 1):
        total = 0.0
        for number, (model, optimizer) in enumerate(zip(replicas, inner, strict=True)):
            batch = loader.batch(
                index
                for micro in range(recipe.micro_batches_at(step))
                for index in sample_indices(recipe, step=step, micro_batch=micro, replica=number)
            )
            logits = model(batch.inputs)
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate_at(step)
            optimizer.step()
            optimizer.zero_grad()
            total += float(loss.detach()) / 2
        losses[step] = total
        if step % sync["every"] == 0:
            for mine, *theirs in zip(
                shared.parameters(), *(model.parameters() for model in replicas), strict=True
            ):
                mine.grad = mine.detach() - torch.stack([p.detach() for p in theirs]).mean(0)
            outer.step()
            for model in replicas:
                model.load_state_dict(shared.state_dict())
    return losses


@pytest.mark.parametrize(
    ("sync", "layout"),
    [(AVERAGE, TWO), (NESTEROV, TWO | {"pipeline": 2, "tensor": 2})],
    ids=["average", "nesterov-cube"],
)
def test_equals_two_models_in_one_process(
    trainings: Any, sync: dict[str, Any], layout: dict[str, Any]
) -> None:
    # Which replica gets a sample depends on the size of micro-batches.
    numbers = {"micro_batch_size": 2}
    gang = trainings.run(f"rounds-{len(layout)}", parallelism=layout, sync=sync, **numbers)
    assert gang.failures == []
    ours, plain = gang.metric("loss"), plain_losses(trainings, sync, **numbers)
    assert ours.keys() == plain.keys()
    assert max(abs(ours[step] - plain[step]) for step in plain) < 1e-4
    every_step = trainings.shared("one").metric("loss")
    assert abs(ours[1] - every_step[1]) < 1e-4
    assert max(abs(ours[step] - every_step[step]) for step in plain) > 1e-3


def test_meeting_after_every_step_of_plain_descent_is_synchronous_training(
    trainings: Any, difference: Difference
) -> None:
    """With a huge ε Adam steps along the gradient itself, whose mean is the whole batch's."""
    descent = {
        "eps": 1e4, "learning_rate": 1e3, "betas": (0.0, 0.0), "weight_decay": 0, "clip": 0,
    }  # fmt: skip
    met = trainings.run("rounds-descent", parallelism=TWO, sync={"every": 1}, **descent)
    synchronous = trainings.run("descent", **descent)
    assert met.failures == synchronous.failures == []
    assert difference(met, synchronous) < 1e-3
    losses = list(synchronous.metric("loss").values())
    assert losses[-1] < losses[0] - 0.2


def test_replicas_meet_once_in_so_many_steps(trainings: Any, tmp_path: Path) -> None:
    """What is reduced over the data-parallel group: the weights when they meet, and both moments
    for the only checkpoint."""
    weights = 197_184
    reduced = {}
    for every in (2, 6):
        order = trainings.workshop.order(
            f"counted-rounds-{every}", micro_batch_size=2, parallelism=TWO, sync={"every": every}
        )
        gang = run_gang(order, 2, tmp_path / str(every), entry=COUNTED)
        assert gang.failures == []
        reduced[every] = [gang.of("result", rank)[0]["value"] for rank in range(2)]
    for every, values in reduced.items():
        meetings = 12 // every
        assert values == [[meetings + 1, meetings * weights + 2 * weights]] * 2


def test_killed_and_resumed_equals_undisturbed(trainings: Any, difference: Difference) -> None:
    """Checkpoints fall on meetings, and bring the outer momentum back, also from bf16."""

    def kill(rank: int, message: dict[str, Any], controls: Controls) -> None:
        if rank == 0 and message["type"] == "step" and message["step"] == 11:
            controls.kill(1)

    order = {
        "parallelism": TWO, "sync": {**NESTEROV, "every": 2}, "checkpoints": {"every": 3},
        "steps": 14, "precision": "bf16",
    }  # fmt: skip
    straight = trainings.run("rounds-straight", **order)
    killed = trainings.run("rounds-killed", observer=kill, **order)
    assert killed.exit_codes[1] == -9
    manifests = [message["manifest"] for message in killed.of("checkpoint")]
    assert [manifest["step"] for manifest in manifests][:3] == [4, 6, 10]
    at = next(manifest for manifest in manifests if manifest["step"] == 6)
    resumed = trainings.run("rounds-killed", epoch=2, resume=at, **order)
    assert resumed.failures == []
    assert sorted(resumed.metric("loss")) == list(range(7, 15))
    assert difference(straight, resumed) < 1e-6
    back = trainings.run("rounds-elsewhere", resume=at, steps=14, precision="bf16")
    assert back.failures == []
    assert abs(back.metric("loss")[7] - straight.metric("loss")[7]) < 1e-2


def test_a_stop_ends_the_round_early(trainings: Any) -> None:
    def stop(rank: int, message: dict[str, Any], controls: Controls) -> None:
        if rank == 0 and message["type"] == "step" and message["step"] == 2:
            controls.stop(1)

    stopped = trainings.run(
        "rounds-stopped", observer=stop, parallelism=TWO, sync={"every": 390}, steps=400
    )
    assert stopped.exit_codes == [0, 0]
    last = max(stopped.metric("loss"))
    assert 2 <= last < 390
    [message] = stopped.of("checkpoint")
    assert message["manifest"]["step"] == last
