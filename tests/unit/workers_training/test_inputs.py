"""Vocabulary and layout of an order."""

from __future__ import annotations

import pytest

from quarterdeck.specs.kinds import PretrainSpec
from quarterdeck.specs.presets import load_preset
from quarterdeck_workers.training.engine import effective_zero
from quarterdeck_workers.training.inputs import vocabulary_of
from quarterdeck_workers.training.layouts import parallelism_of
from quarterdeck_workers.training.model import padded_vocabulary


def spec(**fields: object) -> PretrainSpec:
    return PretrainSpec.model_validate(
        {
            "kind": "pretrain", "name": "x", "architecture": "llama-7b", "datasets": "d",
            "training": {"steps": 1}, **fields,
        }
    )  # fmt: skip


def test_vocabulary_is_padded_alike_for_every_usual_tensor_degree() -> None:
    sizes = {padded_vocabulary(8001, tensor) for tensor in (1, 2, 4, 8, 16)}
    assert sizes == {8064}
    assert padded_vocabulary(8000, 2) == 8000
    assert padded_vocabulary(8000, 3) % 3 == 0


def test_too_small_a_vocabulary_is_refused() -> None:
    architecture = load_preset("llama-7b")
    assert vocabulary_of(architecture, 32_000, 1) == 32_000
    with pytest.raises(ValueError, match=r"vocab_size 32000 is smaller .* 32001"):
        vocabulary_of(architecture, 32_001, 1)


def test_layout_must_match_the_ranks() -> None:
    given = spec(parallelism={"data": 2, "tensor": 2})
    assert parallelism_of(given, 4).tensor == 2
    with pytest.raises(ValueError, match="needs 4 ranks, but 3"):
        parallelism_of(given, 3)
    with pytest.raises(ValueError, match="planner must choose"):
        parallelism_of(spec(), 2)


def test_zero_0_becomes_1_only_where_it_must() -> None:
    def effective(precision: str, **layout: int) -> int:
        chosen = parallelism_of(spec(parallelism=layout), spec(parallelism=layout).rank_count or 0)
        return effective_zero(chosen, "bf16" if precision == "bf16" else "fp32")

    assert effective("fp32", data=2, zero=0) == 0
    assert effective("bf16", data=2, zero=0) == 1
    assert effective("fp32", tensor=2, zero=0) == 1
    assert effective("fp32", pipeline=2, zero=0) == 1
    assert effective("bf16", data=2, zero=3) == 3
