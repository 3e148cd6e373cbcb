"""Each kind's defaults and the combinations that it refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from quarterdeck.specs.kinds import (
    DOCUMENT,
    CommandSpec,
    DatasetSpec,
    EvaluateSpec,
    PretrainSpec,
    ServiceSpec,
)

SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
MOE = {"experts": 4, "experts_per_token": 2, "expert_intermediate_size": 8}
PRETRAIN: dict[str, Any] = {
    "kind": "pretrain",
    "name": "small",
    "architecture": SMALL,
    "datasets": "web",
    "training": {"steps": 10},
}


def _pretrain(**changes: Any) -> PretrainSpec:
    spec = DOCUMENT.validate_python({**PRETRAIN, **changes})
    assert isinstance(spec, PretrainSpec)
    return spec


def test_defaults_are_those_that_are_documented() -> None:
    spec = _pretrain()
    assert (spec.project, spec.queue, spec.priority, spec.max_restarts) == ("default",) * 2 + (0, 3)
    assert (spec.checkpoints.every, spec.checkpoints.keep_last) == ("auto", 3)
    assert spec.parallelism == "auto"
    assert spec.rank_count is None
    assert spec.precision is None


def test_ranks_are_the_product_of_the_degrees() -> None:
    assert _pretrain(parallelism={"data": 2, "tensor": 2, "pipeline": 2}).rank_count == 8
    assert _pretrain(parallelism="auto", ranks=6).rank_count == 6


def test_a_preset_becomes_its_shape() -> None:
    shape = _pretrain(architecture="llama-3-8b").architecture
    assert (shape.hidden_size, shape.num_hidden_layers, shape.kv_heads) == (4096, 32, 8)


def test_datasets_may_be_one_name_a_list_or_weighted() -> None:
    assert [one.name for one in _pretrain(datasets="web").datasets] == ["web"]
    mixed = _pretrain(datasets=[{"name": "web@3", "weight": 0.8}, "code"]).datasets
    assert [(one.name, one.weight) for one in mixed] == [("web@3", 0.8), ("code", None)]


def test_secrets_may_be_names() -> None:
    spec = CommandSpec(
        kind="command", name="a", command="true", secrets=["TOKEN", {"name": "KEY", "env": True}]
    )  # type: ignore[arg-type]
    assert [(one.name, one.env) for one in spec.secrets] == [("TOKEN", False), ("KEY", True)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {}}, "exactly one of tokens, steps and passes, not none"),
        ({"training": {"steps": 1, "tokens": 5}}, "not tokens, steps"),
        ({"parallelism": {"data": 2}, "ranks": 3}, "ranks 3 is not data × tensor × pipeline = 2"),
        ({"parallelism": {"pipeline": 2, "zero": 2}}, "zero: 2 cannot be combined"),
        ({"parallelism": {"sequence": True}}, "needs tensor > 1"),
        ({"parallelism": {"pipeline": 2, "offload": "optimizer"}}, "use pipeline: 1"),
        ({"parallelism": {"zero": 0, "offload": "optimizer"}}, "needs zero: 1, 2 or 3"),
        ({"architecture": {**SMALL, "num_attention_heads": 5}}, "not divisible by"),
        ({"architecture": {**SMALL, "num_key_value_heads": 3}}, "choose a divisor of 4"),
        ({"architecture": {**SMALL, "hidden_size": 0}}, "greater than or equal to 1"),
        ({"architecture": {**SMALL, "hidden_size": -64}}, "greater than or equal to 1"),
        ({"architecture": {**SMALL, "intermediate_size": 0}}, "greater than or equal to 1"),
        ({"architecture": {**SMALL, "vocab_size": 0}}, "greater than or equal to 1"),
        ({"architecture": {**SMALL, "max_position_embeddings": 0}}, "greater than or equal to 1"),
        ({"architecture": {**SMALL, "num_key_value_heads": 0}}, "greater than 0"),
        ({"architecture": {**SMALL, "num_key_value_heads": -2}}, "greater than 0"),
        ({"architecture": {**SMALL, "num_attention_heads": 0}}, "greater than 0"),
        ({"architecture": {**SMALL, "head_dim": 0}}, "greater than 0"),
        ({"architecture": {**SMALL, "moe": {**MOE, "experts": -1}}}, "greater than 0"),
        ({"architecture": {**SMALL, "moe": {**MOE, "shared_experts": -1}}}, "or equal to 0"),
        ({"architecture": {**SMALL, "moe": {**MOE, "experts_per_token": 9}}}, "more than moe."),
        ({"training": {"steps": 0}}, "greater than or equal to 1"),
        ({"after": ["job/a"] * 1001}, "at most 1000 items"),
        ({"secrets": ["TOKEN"] * 101}, "at most 100 items"),
        ({"architecture": "llama-3-8"}, "did you mean llama-3-8b"),
        ({"priority": "urgent"}, "write low, normal, high"),
        ({"checkpoints": {"every": 0}}, "write 1 or more"),
        ({"max_duration": "0s"}, "greater than 0"),
        ({"datasets": []}, "at least 1 item"),
        ({"name": "Small"}, "pattern"),
        ({"precision": "fp16"}, "'fp32' or 'bf16'"),
        ({"speed": 1}, "Extra inputs"),
    ],
)
def test_what_cannot_be_is_refused_with_the_remedy(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        _pretrain(**changes)
    assert message in str(caught.value)


def test_priorities_have_names() -> None:
    levels = [_pretrain(priority=name).priority for name in ("low", "normal", "high", 7)]
    assert levels == [-100, 0, 100, 7]


@pytest.mark.parametrize(
    "document",
    [
        {"kind": "dataset", "name": "a", "uri": "/data", "held_out": "2%"},
        {"kind": "tokenizer", "name": "a", "dataset": "web", "vocabulary": "8k"},
        {"kind": "data", "name": "a", "datasets": "web", "tokenizer": "job/b"},
        PRETRAIN,
        {"kind": "evaluate", "name": "a", "model": "m@prod", "datasets": "web#held_out"},
        {"kind": "command", "name": "a", "command": "true", "max_duration": "5m"},
        {"kind": "service", "name": "a", "model": "m", "engine_args": {"max_batch": 4}},
    ],
    ids=lambda document: document["kind"],
)
def test_what_is_stored_reads_back_the_same(document: dict[str, Any]) -> None:
    spec = DOCUMENT.validate_python(document)
    assert DOCUMENT.validate_python(spec.model_dump(mode="json")) == spec
    assert DOCUMENT.validate_json(json.dumps(spec.model_dump(mode="json"))) == spec
    assert spec.kind == document["kind"]


def test_one_rank_kinds_say_so() -> None:
    dataset = DatasetSpec(kind="dataset", name="a", uri="/d")
    evaluate = EvaluateSpec(kind="evaluate", name="a", model="m", datasets="d")  # type: ignore[arg-type]
    assert dataset.rank_count == evaluate.rank_count == 1


def test_a_replica_takes_a_slot_per_degree() -> None:
    service = DOCUMENT.validate_python(
        {
            "kind": "service",
            "engine": "vllm",
            "name": "a",
            "model": "m",
            "parallelism": {"tensor": 2, "pipeline": 3},
        }
    )
    assert isinstance(service, ServiceSpec) and service.rank_count == 6


def test_specs_never_change_after_parsing() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        _pretrain().name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("sync", "problem"),
    [
        ({"every": 8}, r"zero: 1 would split over data: 2; set parallelism.zero: 0"),
        ({"every": 0}, "sync.every"),
        ({"every": 8, "outer": {"momentum": 0.9}}, "momentum belongs to method: nesterov"),
        ({"every": 8, "outer": {"method": "nesterov", "momentum": 1}}, "less than 1"),
    ],
)
def test_replicas_that_cannot_train_apart_are_refused(sync: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        _pretrain(sync=sync, parallelism={"data": 2})


def test_replicas_apart_read_back_the_same() -> None:
    for outer in ({}, {"method": "nesterov", "learning_rate": 0.5}):
        spec = _pretrain(sync={"every": "1k", "outer": outer}, parallelism={"data": 2, "zero": 0})
        assert spec.sync is not None and spec.sync.every == 1000
        assert DOCUMENT.validate_json(spec.model_dump_json()) == spec
    _pretrain(sync={"every": 8}, parallelism={"tensor": 2})
    _pretrain(sync={"every": 8})
