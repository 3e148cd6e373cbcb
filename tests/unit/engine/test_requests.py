"""What wrong bodies cost: the number of errors that are made for them stays small."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from quarterdeck_workers.engine.api_errors import ApiError
from quarterdeck_workers.engine.openai_embeddings import EmbeddingRequest
from quarterdeck_workers.engine.openai_requests import (
    Body,
    ChatRequest,
    CompletionRequest,
    parse,
)
from quarterdeck_workers.engine.openai_responses import ResponseRequest
from quarterdeck_workers.engine.tokenizing import DetokenizeRequest, TokenizeRequest

MANY = 10_000
KEYS = {f"k{n}": n for n in range(MANY)}


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (CompletionRequest, {"prompt": [{}] * MANY}),
        (CompletionRequest, {"prompt": [[1.5]] * MANY}),
        (CompletionRequest, {"prompt": [[1, *[1.5] * MANY]]}),
        (CompletionRequest, {"prompt": "a", "stop": [1] * MANY}),
        (ChatRequest, {"messages": [{}] * MANY}),
        (ChatRequest, {"messages": [{"role": "user", "content": [{}] * MANY}]}),
        (EmbeddingRequest, {"input": [{}] * MANY}),
        (ResponseRequest, {"input": [{}] * MANY}),
        (ResponseRequest, {"input": [{"role": "user", "content": [{}] * MANY}]}),
        (ResponseRequest, {"input": "a", "metadata": KEYS}),
        (TokenizeRequest, {"messages": [{}] * MANY}),
        (DetokenizeRequest, {"tokens": ["a"] * MANY}),
    ],
)
def test_a_long_list_of_wrong_items_makes_few_errors(
    kind: type[Body], fields: dict[str, object]
) -> None:
    body = json.dumps({"model": "m", **fields}).encode()
    with pytest.raises(ValidationError) as found:
        kind.model_validate_json(body)
    assert found.value.error_count() < 10
    with pytest.raises(ApiError) as told:
        parse(kind, body)
    assert told.value.status == 400


def test_unknown_options_of_a_stream_are_refused_by_the_first_name() -> None:
    body = {"model": "m", "prompt": "a", "stream": True, "stream_options": KEYS}
    with pytest.raises(ApiError, match=r"stream_options\.k0: is unknown"):
        parse(CompletionRequest, json.dumps(body).encode()).check()
