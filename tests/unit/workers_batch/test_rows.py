"""Rows, shards and prompts: every row in exactly one shard, and nothing is asked by guess."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from quarterdeck.specs.batch import BatchSpec
from quarterdeck_workers.batch.prompts import BadRow, fill, prompt_of
from quarterdeck_workers.batch.rows import cut, decode_plan, encode_plan, rows_of
from quarterdeck_workers.data.dataset import Document


def spec(**fields: Any) -> BatchSpec:
    return BatchSpec.model_validate(
        {"kind": "batch", "name": "b", "model": "m", "dataset": "d", **fields}
    )


@given(st.lists(st.integers(0, 50), max_size=12), st.integers(1, 20))
def test_every_row_is_in_exactly_one_shard(counts: list[int], shard_rows: int) -> None:
    files = [(f"f{number}", rows) for number, rows in enumerate(counts)]
    shards = cut(files, shard_rows)
    seen = [
        (piece.path, row)
        for shard in shards
        for piece in shard.pieces
        for row in range(piece.start, piece.end)
    ]
    assert seen == [(path, row) for path, rows in files for row in range(rows)]
    assert all(shard.rows == shard_rows for shard in shards[:-1])
    firsts = [sum(shard.rows for shard in shards[:number]) for number in range(len(shards))]
    assert [shard.first for shard in shards] == firsts
    assert decode_plan(encode_plan(shards)) == shards


def test_lines_are_rows_and_other_files_are_one() -> None:
    lines = b'{"a": 1}\n\n[1]\n{"a"\n{"a": 2}'
    rows = rows_of(Document("x/data.jsonl", lines))
    assert [row.id for row in rows] == [f"x/data.jsonl:{line}" for line in (1, 3, 4, 5)]
    assert [bool(row.problem) for row in rows] == [False, True, True, False]
    (text,) = rows_of(Document("notes.txt", b"two\nlines"))
    assert text.fields == {"text": "two\nlines", "path": "notes.txt"}
    assert rows_of(Document("image.png", b"\x00\x01")) == []


class Bytes:
    context_length = 40

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_chat(self, messages: list[dict[str, str]]) -> list[int]:
        if messages[0]["role"] == "assistant":
            raise ValueError("the assistant does not begin")
        return self.encode("".join(message["content"] for message in messages))


@pytest.mark.parametrize(
    ("template", "fields", "text"),
    [
        ("{{text}}", {"text": "hello"}, "hello"),
        ("Q: {{ q.en }} {{n}}", {"q": {"en": "why"}, "n": [1, "é"]}, 'Q: why [1, "é"]'),
        ("{{a.b}}", {"a.b": "dotted"}, "dotted"),
        ("{{text}}", {"text": "{{path}}", "path": "p"}, "{{path}}"),
    ],
)
def test_fields_are_filled_in_once(template: str, fields: dict[str, Any], text: str) -> None:
    assert fill(template, fields) == text


@pytest.mark.parametrize(
    ("chosen", "fields", "why"),
    [
        ({}, {"body": "x"}, "field 'text' is missing; the row has: body"),
        ({}, {"text": ""}, "the prompt is empty"),
        ({}, {"text": "x" * 33}, "33 tokens; 32 fit"),
        ({"messages": "m"}, {"m": "hello"}, "not a list of messages"),
        ({"messages": "m"}, {"m": [{"role": "boss", "content": "x"}]}, "has a role"),
        ({"messages": "m"}, {"m": [{"role": "assistant", "content": "x"}]}, "does not begin"),
    ],
)
def test_a_row_that_cannot_be_asked_says_why(
    chosen: dict[str, Any], fields: dict[str, Any], why: str
) -> None:
    with pytest.raises(BadRow, match=why):
        prompt_of(spec(generation={"max_tokens": 8}, **chosen), fields, Bytes())


def test_conversations_are_encoded_as_such() -> None:
    chat = {"m": [{"role": "user", "content": "hi"}]}
    assert prompt_of(spec(messages="m", generation={"max_tokens": 8}), chat, Bytes()) == (104, 105)


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"input": "no field"}, "input"),
        ({"input": "{{a}} {{b"}, "input"),
        ({"input": "{{a}}", "messages": "m"}, ""),
        ({"generation": {"temperature": 3}}, "generation.temperature"),
        ({"generation": {"max_tokens": 0}}, "generation.max_tokens"),
        ({"shard_rows": 0}, "shard_rows"),
        ({"on_error": "skip"}, "on_error"),
    ],
)
def test_wrong_fields_are_refused(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(ValidationError) as caught:
        spec(**fields)
    assert ".".join(map(str, caught.value.errors()[0]["loc"])) == path
    assert json.loads(caught.value.json())
