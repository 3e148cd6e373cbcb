"""References between resources."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.specs.references import Reference, parse_reference

NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
VERSIONS = st.none() | st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=8)
SPLITS = st.sampled_from([None, "train", "held_out"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("web", Reference(name="web")),
        ("web@3", Reference(name="web", version="3")),
        ("support@prod", Reference(name="support", version="prod")),
        ("job/llama-8b", Reference(job="llama-8b")),
        ("stdlib#held_out", Reference(name="stdlib", split="held_out")),
        ("web@2#train", Reference(name="web", version="2", split="train")),
        ("s3://bucket/data", Reference(uri="s3://bucket/data")),
        ("file:///usr/lib#held_out", Reference(uri="file:///usr/lib", split="held_out")),
        ("/data/text", Reference(uri="/data/text")),
    ],
)
def test_forms(text: str, expected: Reference) -> None:
    assert parse_reference(text) == expected


@pytest.mark.parametrize(
    "wrong", ["", "Web", "web@", "job/", "web#test", "a b", "-web", "web@1@2", "x" * 64, "job/a/b"]
)
def test_what_is_no_reference_says_how_to_write_one(wrong: str) -> None:
    with pytest.raises(ValueError, match="write NAME, NAME@VERSION"):
        parse_reference(wrong)


@given(st.booleans(), NAMES, VERSIONS, SPLITS)
def test_names_come_back(is_job: bool, name: str, version: str | None, split: str | None) -> None:
    text = ("job/" if is_job else "") + name
    text += f"@{version}" if version else ""
    text += f"#{split}" if split else ""
    found = parse_reference(text)
    assert (found.job, found.name) == ((name, None) if is_job else (None, name))
    assert (found.version, found.split, found.uri) == (version, split, None)
