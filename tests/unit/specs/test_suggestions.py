"""Wrong documents are explained with the path of each field and what was probably meant."""

from __future__ import annotations

from typing import Any

import pytest

from quarterdeck.specs.kinds import KINDS
from quarterdeck.specs.suggestions import MODELS, DocumentError, did_you_mean, parse_document

PRETRAIN: dict[str, Any] = {
    "kind": "pretrain", "name": "a", "architecture": "llama-3-8b", "datasets": "d",
    "training": {"tokens": "1B"},
}  # fmt: skip


def wrong(document: Any) -> dict[str, str]:
    with pytest.raises(DocumentError) as error:
        parse_document(document, "documents[1]")
    return {item.path: item.message for item in error.value.errors}


def test_every_kind_has_its_model() -> None:
    assert tuple(MODELS) == KINDS
    assert parse_document(PRETRAIN, "").kind == "pretrain"


@pytest.mark.parametrize(
    ("change", "path", "said"),
    [
        ({"paralelism": 1}, "paralelism", "did you mean 'parallelism'?"),
        ({"training": {"token": 1}}, "training.token", "did you mean 'tokens'?"),
        ({"parallelism": {"dta": 1}}, "parallelism.dta", "did you mean 'data'?"),
        ({"training": {"tokens": "abc"}}, "training.tokens", "100B"),
        ({"datasets": [{"nam": "x"}]}, "datasets[0].nam", "did you mean 'name'?"),
        ({"datasets": [{"nam": "x"}]}, "datasets[0].name", "required"),
        ({"architecture": {"hiden": 1}}, "architecture.hiden", "did you mean 'hidden_size'"),
        ({"architecture": "llama-3-9b"}, "architecture", "did you mean llama-3-8b"),
        ({"checkpoints": {"every": 0}}, "checkpoints", "1 or more"),
        ({"environment": {"imag": "x:1"}}, "environment.imag", "did you mean 'image'"),
        ({"environment": {"image": "Bad Image"}}, "environment.image", "pattern"),
        ({"env": {"A": 1}}, "env.A", "valid string"),
        ({"labels": {"Architecture": "x", "B": 1}}, "labels.B", "valid string"),
    ],
)
def test_the_path_is_the_one_that_was_written(change: dict[str, Any], path: str, said: str) -> None:
    assert said in wrong({**PRETRAIN, **change})[f"documents[1].{path}"]


@pytest.mark.parametrize(
    ("change", "paths"),
    [
        ({"parallelism": {"dta": 1}}, ["parallelism.dta"]),
        ({"parallelism": {"data": 0, "zero": 9}}, ["parallelism.data", "parallelism.zero"]),
        ({"parallelism": {"data": 0}, "precision": "fp9"}, ["parallelism.data", "precision"]),
    ],
)
def test_a_wrong_layout_is_not_blamed_for_not_being_auto(
    change: dict[str, Any], paths: list[str]
) -> None:
    found = wrong({**PRETRAIN, **change})
    assert list(found) == [f"documents[1].{path}" for path in paths]


def test_an_architecture_that_takes_for_ever_to_plan_is_refused() -> None:
    deep = {
        "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
        "num_hidden_layers": 1024,
    }  # fmt: skip
    assert parse_document({**PRETRAIN, "architecture": deep}, "").kind == "pretrain"
    found = wrong({**PRETRAIN, "architecture": {**deep, "num_hidden_layers": 1025}})
    assert "more than 1024" in found["documents[1].architecture"]


@pytest.mark.parametrize("value", ["aut", 3, [1]])
def test_what_is_neither_a_layout_nor_auto_is_told_both(value: Any) -> None:
    with pytest.raises(DocumentError) as error:
        parse_document({**PRETRAIN, "parallelism": value}, "")
    messages = [item.message for item in error.value.errors]
    assert any("'auto'" in message for message in messages)
    assert any("dictionary" in message for message in messages)


@pytest.mark.parametrize("document", [None, 3, "x", [], [{}]])
def test_what_is_no_document_is_said_to_be_none(document: Any) -> None:
    assert "is not a document" in wrong(document)["documents[1]"]


@pytest.mark.parametrize(
    ("kind", "said"), [("pretran", "did you mean 'pretrain'?"), (None, "missing"), ({}, "known")]
)
def test_a_wrong_kind_names_the_kinds(kind: Any, said: str) -> None:
    assert said in wrong({"kind": kind, "name": "a"})["documents[1].kind"]


def test_a_long_value_is_echoed_in_part() -> None:
    message = wrong({**PRETRAIN, "name": "A" * 10_000})["documents[1].name"]
    assert len(message) < 200


def test_without_a_near_word_the_known_ones_are_named() -> None:
    assert did_you_mean("zzz", ["b", "a"]) == "known: a, b"
    assert did_you_mean("zzz", []) == "none is known"
