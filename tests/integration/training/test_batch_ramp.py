"""A global batch that grows: the same on every layout, and over a kill in the middle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from quarterdeck_workers.training.gang import Controls, Gang

RAMP = {"start": 4, "increment": 4, "samples": 48}
SIZES = [4, 4, 4, 4, 8, 8, 12, 12, 16, 16, 16, 16]
Difference = Callable[[Gang, Gang], float]


def test_batches_and_tokens_of_every_step(trainings: Any) -> None:
    gang = trainings.shared("ramp")
    assert list(gang.metric("batch_size").values()) == SIZES
    seen = [sum(SIZES[:step]) for step in range(1, 13)]
    assert list(gang.metric("tokens").values()) == [32 * samples for samples in seen]
    manifests = [message["manifest"] for message in gang.of("checkpoint")]
    assert [(m["step"], m["sample_index"], m["tokens"]) for m in manifests] == [
        (step, seen[step - 1], 32 * seen[step - 1]) for step in (5, 10, 12)
    ]
    for message in gang.of("step"):
        metrics = message["metrics"]
        per_second = 32 * SIZES[message["step"] - 1] / metrics["step_seconds"]
        assert metrics["tokens_per_second"] == pytest.approx(per_second)


@pytest.mark.parametrize(
    "layout",
    [{"data": 2, "zero": 0}, {"data": 2, "zero": 2}, {"zero": 1, "offload": "optimizer"}],
    ids=str,
)
def test_layouts_equal_one_process(
    trainings: Any, difference: Difference, layout: dict[str, Any]
) -> None:
    name = "ramp-" + "-".join(f"{axis}-{value}" for axis, value in layout.items())
    gang = trainings.run(name, parallelism=layout, batch_ramp=RAMP)
    assert gang.failures == []
    one = trainings.shared("ramp")
    assert difference(one, gang) < 1e-4
    norms = one.metric("grad_norm"), gang.metric("grad_norm")
    assert max(abs(norms[0][step] - norms[1][step]) for step in norms[0]) < 1e-3


def test_killed_in_the_ramp_and_resumed_on_another_layout(
    trainings: Any, difference: Difference
) -> None:
    """A pipeline of three stages, whose buffers grow with the batch, goes on as ZeRO-3."""

    def kill(rank: int, message: dict[str, Any], controls: Controls) -> None:
        if rank == 0 and message["type"] == "step" and message["step"] == 8:
            controls.kill(4)

    killed = trainings.run(
        "ramp-killed", parallelism={"data": 2, "pipeline": 3}, batch_ramp=RAMP,
        checkpoints={"every": 6}, observer=kill,
    )  # fmt: skip
    assert killed.exit_codes[4] == -9
    assert difference(trainings.shared("ramp"), killed) < 1e-4
    [message] = killed.of("checkpoint")
    manifest = message["manifest"]
    assert (manifest["step"], manifest["sample_index"]) == (6, 32)
    resumed = trainings.run(
        "ramp-killed", epoch=2, resume=manifest, parallelism={"data": 2, "zero": 3},
        batch_ramp=RAMP,
    )  # fmt: skip
    assert resumed.failures == []
    assert sorted(resumed.metric("loss")) == list(range(7, 13))
    assert difference(trainings.shared("ramp"), resumed) < 1e-4
