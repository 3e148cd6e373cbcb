"""Arrays: bounded before anything is made, and each member's own document."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from pydantic import ValidationError

from quarterdeck.specs.arrays import MOST_MEMBERS, combinations, member_document, size_of
from quarterdeck.specs.kinds import DOCUMENT


def command(**fields: Any) -> Any:
    document = {"kind": "command", "name": "sweep", "command": "true", **fields}
    return DOCUMENT.validate_python(document)


def members(spec: Any) -> list[dict[str, Any]]:
    size = size_of(spec.array)
    return [
        member_document(spec.model_dump(mode="json"), index, size, values)
        for index, values in enumerate(combinations(spec.array))
    ]


def test_members_are_the_product_and_the_last_key_varies_fastest() -> None:
    made = members(command(array={"lr": [1e-3, 3e-4], "seed": [1, 2]}, env={"A": "b"}))
    assert [one["name"] for one in made] == [f"sweep-{index}" for index in range(4)]
    assert [(one["env"]["ARRAY_LR"], one["env"]["ARRAY_SEED"]) for one in made] == [
        ("0.001", "1"), ("0.001", "2"), ("0.0003", "1"), ("0.0003", "2"),
    ]  # fmt: skip
    assert [one["env"]["QUARTERDECK_ARRAY_INDEX"] for one in made] == ["0", "1", "2", "3"]
    assert {one["env"]["QUARTERDECK_ARRAY_SIZE"] for one in made} == {"4"}
    assert all(one["env"]["A"] == "b" and one["array"] is None for one in made)
    for one in made:
        DOCUMENT.validate_python(one)


def test_a_number_makes_members_that_differ_by_their_index() -> None:
    made = members(command(array=3))
    assert [one["env"] for one in made] == [
        {"QUARTERDECK_ARRAY_INDEX": str(index), "QUARTERDECK_ARRAY_SIZE": "3"} for index in range(3)
    ]


def test_a_field_is_set_by_its_path() -> None:
    made = members(command(array={"ranks": [1, 4], "env.SEED": ["7"]}))
    assert [(one["ranks"], one["env"]["SEED"]) for one in made] == [(1, "7"), (4, "7")]
    pretrain = {"kind": "pretrain", "name": "p", "training": {"steps": 1, "learning_rate": 1.0}}
    (one,) = [
        member_document(pretrain, 0, 1, {"training.learning_rate": 3e-4, "checkpoints.every": 5})
        | {}
        for pretrain in [{**pretrain, "checkpoints": None}]
    ]
    assert one["training"] == {"steps": 1, "learning_rate": 3e-4}
    assert one["checkpoints"] == {"every": 5}
    assert pretrain["training"]["learning_rate"] == 1.0
    with pytest.raises(ValueError, match="lr is not a field of a pretrain job"):
        member_document(pretrain, 0, 1, {"lr": 1})
    with pytest.raises(ValueError, match="name has no fields"):
        member_document(pretrain, 0, 1, {"name.x": 1})


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (0, "this makes 0 jobs, not 1 to 1,000"),
        ({}, "this makes 0 jobs"),
        ({"a": []}, "this makes 0 jobs"),
        (1_000_000, "this makes 1,000,000 jobs, not 1 to 1,000"),
        ({"a": list(range(100)), "b": list(range(11))}, "1,100 jobs"),
        ({"a": 3}, "write its values as a list"),
        ({"name": ["a"]}, "every job of an array has the same name"),
        ({"array.a": [1]}, "the same array"),
        ({"A B": [1]}, "no variable or field"),
        (True, "a number of jobs"),
        ("3", "a number of jobs"),
    ],
)
def test_what_cannot_be_is_refused(array: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        command(array=array)


def test_an_array_of_a_million_million_is_counted_and_never_made() -> None:
    array = {key: list(range(1000)) for key in "abcd"}
    tracemalloc.start()
    with pytest.raises(ValidationError, match="1,000,000,000,000 jobs"):
        command(array=array)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000
    assert size_of(command(array=MOST_MEMBERS).array) == MOST_MEMBERS
