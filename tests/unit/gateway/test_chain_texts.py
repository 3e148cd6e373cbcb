"""What steps of chains are asked, and how their answers are read."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.gateway.chain_texts import (
    CHAT,
    COMPLETIONS,
    RESPONSES,
    Document,
    Unreadable,
    found,
    guard_body,
    question_of,
    refuses,
    reranked,
    with_documents,
)
from quarterdeck.gateway.errors import ApiError
from quarterdeck.specs.gateway_snapshot import RouteStep

BOATS = [Document("boats.md", "Boats float."), Document("", "Masts\ncarry sails.")]
IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}


def step(role: str = "model", **values: Any) -> RouteStep:
    return RouteStep(role=role, service="s", **values)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def said(text: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"content": text}}]}


def test_the_question_is_the_last_users_text() -> None:
    parts = [{"type": "text", "text": "why"}, {"type": "text", "text": "float?"}]
    messages = [user("hello"), user(parts), {"role": "assistant", "content": "so"}]
    asked = question_of(CHAT, {"messages": messages})
    assert asked.text == "why\nfloat?"
    assert asked.last == user("why\nfloat?")
    assert [each["role"] for each in asked.conversation] == ["user", "user", "assistant"]
    assert question_of(COMPLETIONS, {"prompt": ["why"]}).text == "why"
    inputs = [{"type": "message", **user([{"type": "input_text", "text": "why"}])}]
    assert question_of(RESPONSES, {"input": inputs}).last == user("why")


def test_a_guard_is_shown_what_is_no_text_too() -> None:
    content = [{"type": "text", "text": "look"}, IMAGE]
    asked = question_of(CHAT, {"messages": [user("hello"), user(content)]})
    body = guard_body(step("guard"), asked)
    assert body["messages"] == [user(content)]
    whole = guard_body(step("guard", looks_at="conversation"), asked)
    assert whole["messages"] == [user("hello"), user(content)]


@pytest.mark.parametrize(
    ("answer", "settings", "refused"),
    [
        ("safe", {}, False),
        (" unsafe\nS1", {}, True),
        ("is it unsafe?", {}, False),
        ("I cannot say", {"pass_when": r"^\s*safe"}, True),
        ("safe", {"pass_when": r"^\s*safe"}, False),
        ("unsafe", {"pass_when": "safe"}, True),
        ("a" * 900 + "b", {"refuse_when": "(a+)+$"}, False),
    ],
)
def test_verdicts(answer: str, settings: dict[str, Any], refused: bool) -> None:
    guard = step("guard", **{"refuse_when": r"^\s*unsafe", **settings})
    assert refuses(guard, said(answer)) is refused


@pytest.mark.parametrize("answer", [said(""), said(None), said([1]), {}, [], None, {"choices": 3}])
def test_no_verdict_is_no_pass(answer: Any) -> None:
    with pytest.raises(Unreadable):
        refuses(step("guard", refuse_when="unsafe"), answer)


def test_a_pattern_that_a_gateway_does_not_know_is_no_pass() -> None:
    with pytest.raises(Unreadable, match="cannot be judged here"):
        refuses(step("guard", refuse_when="(?=newer)"), said("safe"))


def test_what_was_found_is_bounded_and_empty_texts_are_left_out() -> None:
    data = [
        {"filename": "a\nb.md", "content": [{"type": "text", "text": text}]}
        for text in ("x" * 10**6, " ", "third", "fourth")
    ]
    documents = found(step("retriever", top=3), {"data": data})
    assert [len(each.text) for each in documents] == [65536, 5]
    assert documents[1] == Document("a b.md", "third")


def test_ranked_documents_are_the_best_ones_once() -> None:
    results = [
        {"index": 0, "relevance_score": 0.1},
        {"index": 1, "relevance_score": 0.9},
        {"index": 1, "relevance_score": 0.8},
    ]
    assert reranked(step("reranker", top=2), {"results": results}, BOATS) == BOATS[::-1]
    assert reranked(step("reranker", top=1), {"results": results}, BOATS) == BOATS[1:]
    for wrong in ({"index": -1}, {"index": 2}, {"index": 0, "relevance_score": "nan"}, 3):
        with pytest.raises(Unreadable):
            reranked(step("reranker"), {"results": [wrong]}, BOATS)


def test_documents_join_the_first_system_message_or_make_one() -> None:
    messages = [user("why?")]
    text = "[1] boats.md\nBoats float.\n\n[2]\nMasts\ncarry sails."
    system = {"role": "system", "content": text}
    assert _with(messages)["messages"] == [system, *messages]
    told = [{"role": "system", "content": "Be short."}, *messages]
    joined = {"role": "system", "content": f"Be short.\n\n{text}"}
    assert _with(told)["messages"] == [joined, *messages]
    parts = [{"role": "developer", "content": [{"type": "text", "text": "Be short."}]}, *messages]
    asked = _with(parts)["messages"]
    assert asked[0]["content"][1] == {"type": "text", "text": text}
    assert parts[0]["content"] == [{"type": "text", "text": "Be short."}], "ours alone is changed"


def test_documents_go_before_the_users_text_where_it_is_asked_for() -> None:
    last = {"role": "assistant", "content": "…"}
    messages = [user("hello"), user("why?"), last]
    asked = _with(messages, documents_in="user", template="See {documents}.")["messages"]
    assert asked[1]["content"].startswith("See [1] boats.md") and asked[1]["content"].endswith(
        ".\n\nwhy?"
    )
    assert [asked[0], asked[2]] == [messages[0], last]
    parts = _with([user([IMAGE, {"type": "text", "text": "?"}])], documents_in="user")["messages"]
    assert [part["type"] for part in parts[0]["content"]] == ["text", "image_url", "text"]


def test_what_is_found_is_no_template() -> None:
    documents = [Document("{documents}", "{documents} {0}")]
    body = with_documents(
        CHAT, {"messages": [user("?")]}, step(template="<{documents}>"), documents
    )
    assert body["messages"][0]["content"] == "<[1] {documents}\n{documents} {0}>"


def test_without_documents_the_request_stays() -> None:
    body = {"messages": [user("?")], "temperature": 1}
    assert with_documents(CHAT, body, step(), []) == body


@given(st.lists(st.text(max_size=40), max_size=6), st.integers(1, 120))
def test_documents_never_exceed_their_room(texts: list[str], most: int) -> None:
    documents = [Document("n", text) for text in texts]
    body = {"messages": [user("?")]}
    asked = with_documents(CHAT, body, step(max_characters=most), documents)
    if documents:
        content = asked["messages"][0]["content"]
        assert len(content) <= most
        assert content.startswith("[1] n\n"[:most])


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["messages", "role", "content", "prompt", "input", "data", "text", "type", "results",
             "index", "relevance_score", "choices", "message"]
        ),
        inner, max_size=3,
    ),
    max_leaves=12,
)  # fmt: skip


@given(_json, st.sampled_from([CHAT, COMPLETIONS, RESPONSES]))
def test_nothing_that_clients_or_engines_send_breaks_it(content: Any, path: str) -> None:
    body = content if isinstance(content, dict) else {"messages": content, "prompt": content}
    try:
        asked = question_of(path, body)
    except ApiError as refusal:
        assert refusal.status == 400
    else:
        assert asked.text.strip()
        json.dumps(with_documents(path, body, step(), BOATS))
        with_documents(path, body, step(documents_in="user"), BOATS)
    for read in (
        lambda: refuses(step("guard", refuse_when="x"), content),
        lambda: found(step("retriever"), content),
        lambda: reranked(step("reranker"), content, BOATS),
    ):
        with suppress(Unreadable):
            read()


def _with(messages: list[dict[str, Any]], **values: Any) -> dict[str, Any]:
    return with_documents(CHAT, {"messages": messages}, step(**values), BOATS)
