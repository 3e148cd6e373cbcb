"""Tokens that engines tell, or that are counted, in answers that pass through."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.gateway.usage import Tokens, Usage, tokens_of

EVENT = b'data: {"choices": [{"text": "x"}]}\n\n'
USAGE = b'data: {"usage": {"prompt_tokens": 7, "completion_tokens": 30}}\n\n'


@pytest.mark.parametrize(
    ("answer", "tokens"),
    [
        (b"{}", Tokens()),
        (b'{"usage": {"prompt_tokens": 5, "completion_tokens": 7}}', Tokens(5, 7)),
        (b'{"usage":{"input_tokens":5,"output_tokens":7}}', Tokens(5, 7)),
        (b'{"usage": {"prompt_tokens": 5, "total_tokens": 5}}', Tokens(5)),
        (
            b'{"usage": {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 0}}}',
            Tokens(9, 0, 0),
        ),
        (b'{"prompt_tokens": 1, "prompt_tokens": 2}', Tokens(2)),
        (b'_tokens": 3}' + b'{"prompt_tokens": 4}', Tokens(4)),
        (b'{"prompt_tokens": 3}' + b" " * 5000, Tokens()),  # only the end is looked at
    ],
)
def test_what_a_whole_answer_tells(answer: bytes, tokens: Tokens) -> None:
    assert tokens_of(answer) == tokens


@given(st.integers(0, 300), st.booleans(), st.lists(st.integers(0, 301), max_size=20))
def test_a_stream_is_counted_alike_however_its_events_come(
    events: int, tells: bool, places: list[int]
) -> None:
    content = [EVENT] * events + ([USAGE] if tells else [])
    usage = Usage(stream=True)
    borders = [0, *sorted(min(place, len(content)) for place in places), len(content)]
    for start, end in pairwise(borders):
        usage.push(b"".join(content[start:end]))
    assert usage.tokens() == (Tokens(7, 30) if tells else Tokens(0, events))


def test_what_is_kept_of_a_stream_is_bounded() -> None:
    usage = Usage(stream=True)
    for size in (10, 600, 10**6):
        for _ in range(500):
            usage.push(b"a" * size)
            assert sum(map(len, usage.new)) <= 64 * 512
