"""The JSON Schema of everything that people write: `python -m quarterdeck.specs.schema`.

Editors that know YAML schemas check and complete files whose first line names it. The schema
takes what people may write (`32k`, `5m`, a preset's name), not only what it becomes.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from quarterdeck.specs.kinds import DOCUMENT


class _Written(GenerateJsonSchema):
    """Adds the text forms that parsers accept before validation."""

    def function_before_schema(
        self, schema: core_schema.BeforeValidatorFunctionSchema
    ) -> JsonSchemaValue:
        parsed = super().function_before_schema(schema)
        function = schema["function"]["function"]
        name = getattr(function, "__name__", "")
        return _WIDER[name](parsed) if name in _WIDER else parsed


def _text(description: str, pattern: str) -> Any:
    def widen(parsed: JsonSchemaValue) -> JsonSchemaValue:
        text = {"type": "string", "pattern": pattern, "description": description}
        return {"anyOf": [parsed, text]}

    return widen


_NUMBER = r"^\s*[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?\s*"


def _names_or_list(parsed: JsonSchemaValue, words: str = "a reference") -> JsonSchemaValue:
    item = parsed.get("items", {})
    short: JsonSchemaValue = {"type": "string", "description": words}
    either = {"anyOf": [item, short]}
    return {"anyOf": [{**parsed, "items": either}, item, short]}


def _one_or_list(parsed: JsonSchemaValue) -> JsonSchemaValue:
    return {"anyOf": [parsed, parsed.get("items", {})]}


def _inputs(parsed: JsonSchemaValue) -> JsonSchemaValue:
    short: JsonSchemaValue = {"type": "string", "description": "a reference"}
    patterns = parsed.get("patternProperties", {})
    either = {pattern: {"anyOf": [item, short]} for pattern, item in patterns.items()}
    return {**parsed, "patternProperties": either, "additionalProperties": False}


_WIDER = {
    "_inputs": _inputs,
    "_after": _one_or_list,
    "_one_after": _text("a job that must succeed first", "^job/"),
    "parse_duration": _text("800ms, 30s, 5m, 12h or 7d", _NUMBER + "(ms|s|m|h|d)$"),
    "parse_memory": _text("64GiB, 512MiB or 80GB", _NUMBER + "([KMGT]i?B|B)$"),
    "parse_count": _text("512, 32k, 4M, 100B or 1.4T", _NUMBER + "[kKMBT]?$"),
    "parse_accelerator_share": _text("40% or 0.4", _NUMBER + "%?$"),
    "parse_share": _text("2% or 0.02", _NUMBER + "%?$"),
    "_count_or_share": _text("1 or 25%", _NUMBER + "%?$"),
    "_pause": _text("30s, 5m, 12h or manual", "(" + _NUMBER + "(ms|s|m|h|d)|^manual)$"),
    "_priority": lambda parsed: {"anyOf": [parsed, {"enum": ["low", "normal", "high"]}]},
    "_architecture": _text("the name of a preset, e.g. llama-3-8b", r"^[a-z0-9][a-z0-9.-]*$"),
    "_secret": _text("the name of a secret", r"^[A-Za-z_][A-Za-z0-9_]{0,127}$"),
    "_datasets": _names_or_list,
    "_aliases": lambda parsed: _names_or_list(parsed, "a model name"),
}


def json_schema() -> dict[str, Any]:
    """The schema of one document, for editors and other programs."""
    schema = DOCUMENT.json_schema(schema_generator=_Written, mode="validation")
    return {
        "$schema": GenerateJsonSchema.schema_dialect,
        "title": "Quarterdeck document",
        **schema,
    }


def schema_text() -> str:
    """The schema as it is checked in."""
    return json.dumps(json_schema(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema_text())
