"""The global batch by the model's size."""

from __future__ import annotations

import pytest

from quarterdeck.planner.batches import preset_batch_size, with_batch_size
from quarterdeck.planner.hardware import builtin_catalogue
from quarterdeck.planner.plan import plan_pretrain
from quarterdeck.specs.presets import load_preset
from quarterdeck.specs.training import Training


@pytest.mark.parametrize(
    ("parameters", "length", "sequences"),
    [
        (10_000_000, 2048, 64),
        (124_439_808, 2048, 256),
        (760_000_000, 2048, 256),
        (1_300_000_000, 2048, 512),
        (2_700_000_000, 2048, 512),
        (6_000_000_000, 2048, 1024),
        (6_738_415_616, 2048, 2048),
        (65_286_000_000, 2048, 2048),
        (65_286_000_000, 4096, 1024),
        (6_738_415_616, 3000, 1024),
        (6_738_415_616, 2**23, 1),
    ],
)
def test_tokens_per_batch_are_the_papers(parameters: int, length: int, sequences: int) -> None:
    assert preset_batch_size(parameters, length) == sequences


def test_a_given_batch_is_kept() -> None:
    given = Training(steps=1, global_batch_size=48)
    assert with_batch_size(given, 7_000_000_000) == given
    assert given.batch == 48
    assert Training.model_validate({"steps": 1, "global_batch_size": "2k"}).batch == 2000
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        Training(steps=1, global_batch_size=0)


def test_an_unknown_batch_says_so() -> None:
    with pytest.raises(ValueError, match="global_batch_size"):
        _ = Training(steps=1).batch


def test_a_plan_uses_the_preset() -> None:
    h100 = builtin_catalogue().find("H100")
    assert h100 is not None
    training = Training(steps=10, sequence_length=4096)
    plan = plan_pretrain(load_preset("llama-3-8b"), training, accelerator=h100, ranks=64)
    assert plan.training.tokens_per_step == 2**22
    assert plan.training.tokens == 10 * 2**22
    assert plan.layout is not None
    done = plan.layout.parallelism.data * plan.layout.micro_batches * plan.layout.micro_batch_size
    assert done == 1024
