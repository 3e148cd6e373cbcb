from __future__ import annotations

from collections.abc import Sequence

from hypothesis import example, given
from hypothesis import strategies as st

from quarterdeck_workers.engine.text import REPLACEMENT, Detokenizer, StopStrings

TOKENS = [bytes([byte]) for byte in range(256)] + ["grü".encode(), "你好".encode(), b"the "]


def decode(tokens: Sequence[int]) -> str:
    """A byte-level vocabulary: what ByteLevel decoders do."""
    return b"".join(TOKENS[token] for token in tokens).decode("utf-8", errors="replace")


def as_tokens(text: str) -> list[int]:
    return list(text.encode())


@given(st.lists(st.integers(0, len(TOKENS) - 1), max_size=120))
@example(as_tokens("🚀" * 30))
@example([0xF0] * 60)
def test_pieces_add_up_to_the_text_of_all_tokens(tokens: list[int]) -> None:
    detokenizer = Detokenizer(decode)
    text = "".join(detokenizer.push(token) for token in tokens) + detokenizer.finish()
    assert text == decode(tokens)


@given(st.text(max_size=80))
def test_characters_are_never_shown_in_part(text: str) -> None:
    detokenizer = Detokenizer(decode)
    shown = ""
    for token in as_tokens(text):
        shown += detokenizer.push(token)
        assert text.startswith(shown)
    assert shown + detokenizer.finish() == text


def test_an_unfinished_character_shows_in_the_end() -> None:
    detokenizer = Detokenizer(decode)
    assert [detokenizer.push(token) for token in "a🚀".encode()[:-1]] == ["a", "", "", ""]
    assert detokenizer.finish() == REPLACEMENT


pieces = st.lists(st.text("ab\n", max_size=4), max_size=20)
stops = st.lists(st.text("ab\n", min_size=1, max_size=5), max_size=3)


@given(pieces, stops)
def test_stopping_is_the_same_however_the_text_is_cut(pieces: list[str], stops: list[str]) -> None:
    matcher, shown = StopStrings(stops), ""
    for number, piece in enumerate(pieces):
        shown += matcher.push(piece)
        assert "".join(pieces[: number + 1]).startswith(shown)
        if matcher.stopped:
            seen = "".join(pieces[: number + 1])
            break
    else:
        shown += matcher.finish()
        seen = "".join(pieces)
    found = [at for stop in stops if (at := seen.find(stop)) >= 0]
    assert matcher.stopped == bool(found)
    assert shown == (seen[: min(found)] if found else seen)


def test_only_what_may_become_a_stop_is_held_back() -> None:
    matcher = StopStrings(["\nuser:"])
    assert [matcher.push(p) for p in ("hi", "\n", "us", "ual", "\nuser", ":x")] == [
        "hi", "", "", "\nusual", "", "",
    ]  # fmt: skip
    assert matcher.stopped
