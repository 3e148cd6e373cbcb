"""Arrays: one document that stands for a job for each combination of values. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from itertools import product
from math import prod
from typing import Annotated, Any

from pydantic import BeforeValidator, JsonValue

MOST_MEMBERS = 1000
"""Jobs of one array. Their number is known before any of them is made."""
_KEY = re.compile(r"^[a-z][a-z0-9_]*(\.[A-Za-z0-9_-]+)*$")
_OWN = frozenset({"kind", "name", "project", "after", "array", "array_parallelism"})
"""Fields that all members share by nature."""
INDEX, SIZE, VARIABLE = "QUARTERDECK_ARRAY_INDEX", "QUARTERDECK_ARRAY_SIZE", "ARRAY_"


def _array(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, (int, Mapping)):
        raise ValueError("write {lr: [1e-3, 3e-4]}, or a number of jobs that differ by their index")
    if isinstance(value, int):
        count = value
    else:
        for key, values in value.items():
            _check(key, values)
        count = prod(len(values) for values in value.values()) if value else 0
    if not 1 <= count <= MOST_MEMBERS:
        raise ValueError(
            f"this makes {count:,} jobs, not 1 to {MOST_MEMBERS:,}: give fewer values, or submit "
            "it in parts"
        )
    return value


def _check(key: object, values: object) -> None:
    if not isinstance(key, str) or not _KEY.match(key):
        raise ValueError(f"{key!r} is no variable or field: write lr, or training.learning_rate")
    if key.split(".")[0] in _OWN:
        raise ValueError(f"{key}: every job of an array has the same {key}")
    if not isinstance(values, (list, tuple)):
        raise ValueError(f"{key}: write its values as a list, [{values!r}]")


Array = Annotated[int | dict[str, tuple[JsonValue, ...]], BeforeValidator(_array)]


def combinations(array: int | Mapping[str, tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    """The values of each member, by index: the last key varies fastest."""
    if isinstance(array, int):
        yield from ({} for _ in range(array))
        return
    for values in product(*array.values()):
        yield dict(zip(array, values, strict=True))


def size_of(array: int | Mapping[str, tuple[Any, ...]]) -> int:
    """How many members there are."""
    return array if isinstance(array, int) else prod(len(values) for values in array.values())


def member_document(
    document: Mapping[str, Any], index: int, size: int, values: Mapping[str, Any]
) -> dict[str, Any]:
    """The document of member `index`, called NAME-INDEX.

    A key whose first part is a field of the document sets that field (`training.learning_rate`).
    A command gets every key as the variable `ARRAY_<KEY>` too, and its keys need not be fields.
    Raises ValueError naming a key that is neither.
    """
    made = deepcopy(dict(document))
    made["array"] = made["array_parallelism"] = None
    made["name"] = f"{document['name']}-{index}"
    command = document["kind"] == "command"
    for key, value in values.items():
        if key.split(".")[0] in document:
            _set(made, key, value)
        elif not command:
            raise ValueError(
                f"{key} is not a field of a {document['kind']} job: write its whole path, e.g. "
                "training.learning_rate"
            )
    if command:
        variables = {VARIABLE + re.sub("[.-]", "_", key).upper(): _text(value)
                     for key, value in values.items()}  # fmt: skip
        made["env"] = {**made.get("env", {}), **variables, INDEX: str(index), SIZE: str(size)}
    return made


def _set(document: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    inner = document
    for place, part in enumerate(parents, start=1):
        if inner.get(part) is None:
            inner[part] = {}
        if not isinstance(inner[part], dict):
            raise ValueError(f"{key}: {'.'.join(parents[:place])} has no fields of its own")
        inner = inner[part]
    inner[last] = value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
