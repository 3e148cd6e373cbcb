"""Secrets never leave the node as text, however they are printed."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck_workers.rank.masking import MASK, Masker

SECRET = "p@ss/wörd+of mine\"'"
KEY = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqh\nkiG9w0BAQEFAASCB\n-----END KEY-----\n"


@pytest.mark.parametrize(
    "said",
    [
        SECRET,
        f"token={SECRET};",
        quote(SECRET, safe=""),
        quote(SECRET).lower().replace("%c3%b6", "%c3%b6"),
        base64.b64encode(SECRET.encode()).decode(),
        base64.urlsafe_b64encode(SECRET.encode()).decode(),
        base64.b64encode(f"ada:{SECRET}".encode()).decode(),
        base64.b64encode(f"ad:{SECRET}!".encode()).decode(),
        base64.b64encode(f"a:{SECRET}!!".encode()).decode(),
        json.dumps({"x": SECRET}),
        repr(SECRET),
    ],
)
def test_every_form_is_masked(said: str) -> None:
    masked = Masker([SECRET]).text(said)
    assert MASK in masked
    for part in ("wörd", "w%C3", "w%c3", "of mine", "of+mine", "of%20mine", "mine"):
        assert part not in masked
    if said.isascii() and "%" not in said and "{" not in said:
        core = base64.b64encode(SECRET.encode()).decode().rstrip("=")
        assert core not in masked


def test_keys_of_several_lines_are_masked_line_by_line_and_wrapped() -> None:
    masker = Masker([KEY])
    for line in KEY.splitlines():
        assert masker.text(line) == MASK
    wrapped = base64.encodebytes((KEY * 3).encode()).decode()
    long = Masker([KEY * 3])
    assert all(long.text(line) == MASK for line in wrapped.splitlines()[:-1])


def test_short_values_and_no_secrets_change_nothing() -> None:
    for masker in (Masker([]), Masker(["abc", ""])):
        assert masker.text("abc abc") == "abc abc"
        assert masker.stream().feed(b"abc") == b"abc"
    assert Masker(["abcd"]).value({"a": ["xabcdx", 1, None]}) == {"a": ["x***x", 1, None]}


secrets = st.lists(st.text("ab", min_size=4, max_size=7), min_size=1, max_size=3)


@given(secrets=secrets, pieces=st.lists(st.text("ab c\n", max_size=9), max_size=12))
def test_a_secret_split_over_writes_is_masked(secrets: list[str], pieces: list[str]) -> None:
    masker = Masker(secrets)
    whole = "".join(pieces)
    stream = masker.stream()
    said = b"".join([*(stream.feed(piece.encode()) for piece in pieces), stream.close()]).decode()
    assert said.replace(MASK, "") == "" or all(secret not in said for secret in secrets)
    if not any(secret in whole for secret in secrets) and MASK not in masker.text(whole):
        assert said == whole


def test_little_is_held_back() -> None:
    stream = Masker(["secret"]).stream()
    assert stream.feed(b"a line\n") == b"a line\n"
    assert stream.feed(b"se") == b""
    assert stream.feed(b"ven\n") == b"seven\n"
    assert stream.feed(b"sec") + stream.feed(b"ret\n") == b"***\n"
    assert stream.feed(b"secre") + stream.close() == b"secre"
