"""The optimizer's state in host memory computes what it computes beside the weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from quarterdeck_workers.training.gang import Gang

Difference = Callable[[Gang, Gang], float]


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_offloaded_state_equals_one_process_and_resumes(
    trainings: Any, difference: Difference, zero: int
) -> None:
    """Clipping is on, gradients accumulate over two micro-batches, and the second half resumes
    with the moments of the first."""
    layout = {"data": 2, "zero": zero, "offload": "optimizer"}
    order = {"steps": 6, "micro_batch_size": 4, "checkpoints": {"every": 3}}
    one = trainings.shared("six")
    gang = trainings.run(f"offload-{zero}", parallelism=layout, **order)
    assert gang.failures == []
    assert gang.metric("loss").keys() == set(range(1, 7))
    assert difference(one, gang) < 1e-4
    norms = (one.metric("grad_norm"), gang.metric("grad_norm"))
    assert max(abs(norms[0][step] - norms[1][step]) for step in norms[0]) < 1e-3

    manifest = gang.of("checkpoint")[0]["manifest"]
    assert manifest["step"] == 3
    back = trainings.run(f"offload-back-{zero}", parallelism=layout, resume=manifest, **order)
    assert back.failures == []
    assert back.metric("loss").keys() == {4, 5, 6}
    assert difference(gang, back) < 1e-6
    assert difference(one, back) < 1e-4


def test_offloaded_checkpoint_resumes_without_offload(
    trainings: Any, difference: Difference
) -> None:
    """Moments written from host memory are those that another layout continues with."""
    layout = {"data": 2, "zero": 2, "offload": "optimizer"}
    order = {"steps": 6, "micro_batch_size": 4}
    gang = trainings.run("offload-other", parallelism=layout, checkpoints={"every": 3}, **order)
    manifest = gang.of("checkpoint")[0]["manifest"]
    back = trainings.run("offload-other-back", resume=manifest, **order)
    assert gang.failures == back.failures == []
    assert back.metric("loss").keys() == {4, 5, 6}
    assert difference(trainings.shared("six"), back) < 1e-4
