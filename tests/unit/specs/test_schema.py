"""The JSON Schema that editors use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from quarterdeck.specs.loading import load_paths
from quarterdeck.specs.schema import json_schema, schema_text

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    Draft202012Validator.check_schema(json_schema())
    return Draft202012Validator(json_schema())


def test_the_checked_in_schema_is_the_one_of_this_code() -> None:
    checked_in = (ROOT / "docs" / "schema.json").read_text(encoding="utf-8")
    assert checked_in == schema_text(), "run: python -m quarterdeck.specs.schema > docs/schema.json"


def test_it_accepts_every_example(validator: Draft202012Validator) -> None:
    for document in load_paths([ROOT / "examples"]):
        errors = [error.message for error in validator.iter_errors(document.data)]
        assert errors == [], document.noun


@pytest.mark.parametrize(
    "fields",
    [
        {"ranks": 2, "max_duration": "12h"},
        {"priority": "high", "resources": {"memory": "64GiB"}},
        {"secrets": ["TOKEN", {"name": "KEY", "env": True}]},
    ],
)
def test_it_accepts_short_forms(validator: Draft202012Validator, fields: dict[str, Any]) -> None:
    validator.validate({"kind": "command", "name": "a", "command": "x", **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {"rank": 2},
        {"max_duration": "12 hours"},
        {"priority": "urgent"},
        {"name": "A"},
        {"resources": {"memory": "64"}},
    ],
)
def test_it_refuses_what_loading_refuses(
    validator: Draft202012Validator, fields: dict[str, Any]
) -> None:
    document = {"kind": "command", "name": "a", "command": "x", **fields}
    assert list(validator.iter_errors(document)) != []


def test_it_is_plain_json() -> None:
    assert json.loads(schema_text())["title"] == "Quarterdeck document"
