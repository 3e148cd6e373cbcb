"""The checked-in description is the one that this code gives."""

from __future__ import annotations

import json
from pathlib import Path

from quarterdeck.api.openapi import describe

CHECKED_IN = Path(__file__).parents[3] / "docs" / "openapi.json"


def test_the_checked_in_description_is_up_to_date() -> None:
    assert describe() == CHECKED_IN.read_text(encoding="utf-8"), (
        "write it anew: python -m quarterdeck.api.openapi > docs/openapi.json"
    )


def test_every_reference_leads_somewhere_and_every_error_is_a_problem() -> None:
    schema = json.loads(describe())
    known = {f"#/components/schemas/{name}" for name in schema["components"]["schemas"]}
    text = json.dumps(schema)
    assert {part.split('"')[0] for part in text.split('"$ref": "')[1:]} <= known
    names = [
        operation["operationId"] for path in schema["paths"].values() for operation in path.values()
    ]
    assert len(names) == len(set(names))
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if int(status) >= 400 and path != "/readyz":
                    assert set(response["content"]) == {"application/problem+json"}, path
