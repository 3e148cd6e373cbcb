"""What a chain may say."""

from __future__ import annotations

from typing import Any

import pytest

from quarterdeck.specs.chains import MOST_STEPS, steps_of
from quarterdeck.specs.kinds import ServiceSpec
from quarterdeck.specs.rollout import same_replicas
from quarterdeck.specs.suggestions import DocumentError, parse_document

WHOLE: list[dict[str, Any]] = [
    {"guard": "llama-guard"},
    {"retriever": "handbook-search", "top": 20, "on_failure": "skip", "timeout": "2s"},
    {"reranker": "rerank", "top": 4},
    {"model": "chat", "max_characters": "8k"},
]


def parse(*steps: Any, **fields: Any) -> ServiceSpec:
    chain = {"chain": list(steps)} if steps else {}
    document = {"kind": "service", "name": "support", **chain, **fields}
    parsed = parse_document(document, "documents[0]")
    assert isinstance(parsed, ServiceSpec)
    return parsed


def test_a_whole_chain_parses_and_is_read_again_from_the_store() -> None:
    spec = parse(*WHOLE, aliases=["assistant"], timeouts={"total": "5m"}, fallback="small")
    stored = spec.model_dump(mode="json")
    assert ServiceSpec.model_validate(stored) == spec
    steps = steps_of(stored)
    assert [(step.role, step.service) for step in steps] == [
        ("guard", "llama-guard"), ("retriever", "handbook-search"), ("reranker", "rerank"),
        ("model", "chat"),
    ]  # fmt: skip
    assert spec.own_replicas == 0 and spec.model is None
    assert steps[1].model_dump()["timeout"] == 2.0
    assert steps_of(parse(model="m@1").model_dump(mode="json")) == ()


def test_another_chain_is_another_revision() -> None:
    one, other = parse(*WHOLE), parse(*WHOLE[1:])
    assert not same_replicas(one.model_dump(mode="json"), other.model_dump(mode="json"))


@pytest.mark.parametrize(
    ("steps", "path", "words"),
    [
        ([{"guard": "g"}], "chain", "one model: NAME stands last"),
        ([{"model": "a"}, {"model": "b"}], "chain", "one model: NAME stands last"),
        ([{"retriever": "r"}, {"guard": "g"}, {"model": "m"}], "chain", "write guards first"),
        ([{"reranker": "r"}, {"model": "m"}], "chain", "write a retriever before it"),
        ([{"guard": "g"}] * MOST_STEPS + [{"model": "m"}], "chain", f"at most {MOST_STEPS} items"),
        (["chat"], "chain[0]", "a step names one service by its role"),
        ([{"guard": "g", "model": "m"}], "chain[0]", "a step names one service by its role"),
        ([{"gaurd": "g"}, {"model": "m"}], "chain[0]", "write guard: NAME"),
        ([{"model": "m", "top": 3}], "chain[0].top", "'top' is not a field here"),
        ([{"guard": "g", "on_failure": "skip"}, {"model": "m"}], "chain[0].on_failure", "not a"),
        ([{"guard": "g", "refuse_wen": "x"}, {"model": "m"}], "chain[0].refuse_wen",
         "did you mean 'refuse_when'?"),
        ([{"guard": "g", "refuse_when": "("}, {"model": "m"}], "chain[0].refuse_when",
         "is not taken"),
        ([{"guard": "g", "pass_when": "["}, {"model": "m"}], "chain[0].pass_when",
         "is not taken"),
        ([{"guard": "g", "refuse_when": "(?=x)"}, {"model": "m"}], "chain[0].refuse_when",
         "no look-around"),
        ([{"model": "m", "template": "no place"}], "chain[0].template", "write {documents}"),
        ([{"model": "m", "template": "{documents} {documents}"}], "chain[0].template", "say once"),
        ([{"retriever": "r", "top": 51}, {"model": "m"}], "chain[0].top", "50"),
        ([{"retriever": "r", "store": "../x"}, {"model": "m"}], "chain[0].store", "pattern"),
        ([{"retriever": "r", "timeout": "0s"}, {"model": "m"}], "chain[0].timeout", "greater"),
        ([{"model": "Not A Name"}], "chain[0].model", "pattern"),
    ],
)  # fmt: skip
def test_wrong_steps_are_named(steps: list[Any], path: str, words: str) -> None:
    with pytest.raises(DocumentError) as refusal:
        parse(*steps)
    (error,) = refusal.value.errors
    assert error.path == f"documents[0].{path}"
    assert words in error.message


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model": "m@1"}, "model: a chain has no replicas of its own"),
        ({"engine": "vllm"}, "engine: a chain has no replicas"),
        ({"replicas": 2}, "replicas: a chain has no replicas"),
        ({"idle_after": "5m"}, "idle_after: a chain has no replicas"),
        ({"admission": {"max_wait": "1s"}}, "admission: a chain has no replicas"),
        ({"routing": {"policy": "prefix"}}, "routing: a chain has no replicas"),
        ({"timeouts": {"per_try": "1s"}}, "timeouts: only total is a chain's own"),
    ],
)
def test_what_belongs_to_replicas_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(DocumentError) as refusal:
        parse(*WHOLE, **fields)
    assert words in refusal.value.errors[0].message


def test_neither_model_nor_chain_is_refused() -> None:
    with pytest.raises(DocumentError) as refusal:
        parse()
    assert "model: is missing: name the model to serve, or give chain" in str(refusal.value)
