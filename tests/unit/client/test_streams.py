"""Server-sent events as the HTML standard reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.client.client import split_subject
from quarterdeck.client.streams import ServerEvent, parse_events, split_lines
from quarterdeck.client.transport import pauses

LINES = st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=("Cs",)), max_size=20)


def test_fields_and_their_defaults() -> None:
    text = "id: 7\nevent: end\ndata: {}\n\ndata:x\ndata: y\n\n: comment\nretry: 3\n\nid\ndata:z\n\n"
    assert list(parse_events(text.split("\n"))) == [
        ServerEvent("7", "end", "{}"),
        ServerEvent("7", "message", "x\ny"),
        ServerEvent("7", "comment", "comment"),
        ServerEvent("", "message", "z"),
    ]


def test_what_was_not_finished_is_not_delivered() -> None:
    assert list(parse_events(["data: half"])) == []


@given(st.lists(st.tuples(LINES.filter(bool), st.lists(LINES, min_size=1, max_size=3)), max_size=5))
def test_what_is_sent_is_heard(messages: list[tuple[str, list[str]]]) -> None:
    lines: list[str] = []
    for identity, data in messages:
        lines += [f"id: {identity}", *(f"data: {line}" for line in data), ""]
    heard = list(parse_events(lines))
    assert [(event.id, event.data) for event in heard] == [
        (identity, "\n".join(data)) for identity, data in messages
    ]


@pytest.mark.parametrize("wrong", ["", "job", "job/", "node/a", "/a"])
def test_subjects_are_jobs_or_services(wrong: str) -> None:
    with pytest.raises(ValueError, match="is not job/NAME or service/NAME"):
        split_subject(wrong)
    assert split_subject("service/chat") == ("service", "chat")


def test_pauses_double_to_two_seconds() -> None:
    longest = pauses(lambda: 1.0)
    assert [round(next(longest), 1) for _ in range(7)] == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    shortest = pauses(lambda: 0.0)
    assert [round(next(shortest), 2) for _ in range(3)] == [0.05, 0.1, 0.2]


def test_lines_end_at_line_feeds_and_returns_alone() -> None:
    parts = ["data: a\x85b\u2028c\x0b\r", "\nid: 1\r", "data: ", "d\n", "rest"]
    assert list(split_lines(parts)) == ["data: a\x85b\u2028c\x0b", "id: 1", "data: d"]
